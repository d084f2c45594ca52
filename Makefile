# Every target sets up its own .venv from the lock. GPU=1 takes the lock with CUDA (Linux).
PYTHON ?= python3
LOCK := $(if $(GPU),requirements-gpu.lock,requirements.lock)
BIN := .venv/bin
READY := .venv/.ready-$(LOCK)
OPTIONS ?=
PARALLEL := -n 2 --dist loadfile  # two processes, a file to each; with OPTIONS="-n 0 --pdb" one, to debug

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast lab prove format parameters lock clean

help:           ## say what there is
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

demo: $(READY)  ## draw the demo dataset, run 01 to 09, print the report's path
	$(BIN)/python -m workbench demo data/demo
	$(BIN)/python -m workbench run parameters/demo.yaml $(OPTIONS)

test: $(READY)  ## every test, within 20 minutes on two cores
	$(BIN)/python -m pytest tests $(PARALLEL) $(OPTIONS)

test-fast: $(READY)  ## the tests without trainings, kernels and browsers, within 2 minutes
	$(BIN)/python -m pytest tests -m "not slow" $(PARALLEL) $(OPTIONS)

lab: $(READY)   ## JupyterLab on the numbered notebooks
	$(BIN)/jupyter lab --ip=127.0.0.1 --notebook-dir=. notebooks $(OPTIONS)

prove: $(READY) ## the long proofs: see tests/prove
	$(BIN)/python -m tests.prove $(OPTIONS)

format: $(READY)  ## format code and notebooks, strip outputs
	$(BIN)/ruff check --fix . && $(BIN)/ruff format . && $(BIN)/nbstripout notebooks/*.ipynb

parameters: $(READY)  ## write parameters/default.yaml from workbench/settings.py
	$(BIN)/python -c "from workbench.parameters import write_default; write_default('parameters/default.yaml')"

lock:           ## resolve pyproject.toml anew: both locks and environment.yml (needs uv)
	bash .ci/lock

clean:          ## remove the environment; runs and data stay
	rm -rf .venv build *.egg-info

$(READY): $(LOCK) pyproject.toml workbench/data/letterbox.c workbench/data/letterbox.h
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "Python %d.%d found; 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.12 ..." % v)'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { echo "venv is missing: install python3-venv"; exit 2; }
	$(BIN)/python -m pip install --quiet --require-hashes -r $(LOCK)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@
