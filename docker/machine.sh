#!/bin/sh
# One machine of a training on several, each with the same project and photos under one path:
#   HOSTS="node1 node2" INDEX=0 sh docker/machine.sh parameters/mine.yaml      and INDEX=1 on node2
# Every machine works in a run folder of its own (mine_0, mine_1), so none waits for a lock and none
# writes what another reads; all end with the same weights. After a machine was lost, end the
# others and give the same commands again: they go on from the last epoch that all of them wrote.
# Machines trust each other: keep PORT inside a network that is yours.
set -eu
file=$1
shift
workers=$(for host in $HOSTS; do
  case $host in *:*) printf '"%s",' "$host" ;; *) printf '"%s:%s",' "$host" "${PORT:-12345}" ;; esac
done)
export TF_CONFIG="{\"cluster\": {\"worker\": [${workers%,}]}, \"task\": {\"type\": \"worker\", \"index\": $INDEX}}"
name=$(basename "$file")
exec "${PYTHON:-python}" -m workbench run "$file" --run "${name%.*}_$INDEX" \
  --set multi_gpu.enabled=true --set multi_gpu.strategy=multi_worker "$@"
