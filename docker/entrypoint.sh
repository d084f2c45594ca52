#!/bin/sh
# Work as whoever owns the parameter file: what a run leaves belongs to them, never to root.
# Without a command the run is named after the parameter file, as outside of a container.
set -eu
if [ "$#" -eq 0 ]; then
  name=$(basename "${CONFIG_FILE:-default.yaml}")
  set -- python -m workbench run run.yaml --run "${name%.*}"
fi
[ "$(id -u)" -eq 0 ] || exec "$@"
user=$(stat -c %u run.yaml) group=$(stat -c %g run.yaml)
if [ "$(stat -c %u outputs)" -eq 0 ]; then
  chown "$user:$group" outputs # Docker makes a folder that is not there as root
fi
exec setpriv --reuid="$user" --regid="$group" --clear-groups "$@"
