# Two commands matter: `make demo` and `make test`. Both make .venv first.

# The newest of Python 3.11 to 3.13 that is there, or the one in PYTHON.
BIN := .venv/bin
UI_PORT ?= 5000
# Two files of tests at once: most wait for processes to start. In their order, whole jobs come
# first, which take longest.
AT_ONCE := -n 2 --dist loadfile --no-loadscope-reorder
# With a thread each: the threads of small nets mostly wait for one another, and use up both cores.
test test-fast: export OMP_NUM_THREADS = 1
# Jobs and Ray's workers find `python3` and `ray` on the path.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast docs audit chaos bench gpu guard sizes lint up down ui

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

.venv/.installed: pyproject.toml constraints.txt
	@chmod +x jobs/[!_]*.py  # some programs unpack a ZIP without permissions
	@PYTHON=$(PYTHON) sh infra/environment.sh
	@touch $@

demo: .venv/.installed  ## from nothing to sampled videos, on a local Ray cluster
	$(BIN)/python infra/demo.py

test: .venv/.installed  ## all tests but the slow ones
	$(BIN)/python -m pytest $(AT_ONCE) -m 'not slow'

test-fast: .venv/.installed  ## the quick unit tests, for in between
	$(BIN)/python -m pytest $(AT_ONCE) -m 'not slow and not e2e and not long' tests/unit

docs: .venv/.installed  ## the documentation as a site, runs/site/index.html; fails at dead links
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "read runs/site/index.html, or with search: python3 -m http.server --bind 127.0.0.1 --directory runs/site"

chaos: .venv/.installed  ## kill workers, drivers, nodes, hosts and the S3 server of running jobs, 191 times
	$(BIN)/python -m pytest tests/e2e/test_kills.py tests/e2e/test_training_kills.py \
	    tests/e2e/test_compose.py tests/e2e/test_elastic.py

bench: .venv/.installed  ## measure against other tools; writes benchmarks/results.json
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python -m benchmarks

audit: .venv/.installed  ## list of parts and licences; known vulnerabilities, which takes a network
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[audit,bench,dev,docs,games,server]'
	@mkdir -p runs
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-file runs/sbom.json $(BIN)/python
	@printf '# Licences of the dependencies\n\n%s\n\n' \
	    'What the pinned packages state, as `make audit` lists it; what it means is in [licences.md](licences.md).' \
	    >docs/third-party.md
	$(BIN)/pip-licenses --packages $$(sed 's/==.*//' constraints.txt) --with-system --no-version --format=markdown \
	    >>docs/third-party.md
	$(BIN)/pip-audit --strict --disable-pip --no-deps -r constraints.txt

gpu: .venv/.installed  ## tests and figures of a GPU, nine minutes, into runs/gpu
	PYTHON=$(BIN)/python bash tests/gpu/run.sh

guard: .venv/.installed  ## a minute of ratios that a change must not spoil
	$(BIN)/python -m benchmarks.guard

lint: .venv/.installed  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

sizes: .venv/.installed  ## parameters, arithmetic and memory of each preset
	$(BIN)/python -m benchmarks.sizes

up: .venv/.installed  ## start a local Ray cluster for `ray job submit`
	$(BIN)/python infra/local_cluster.py up

down: .venv/.installed  ## stop it
	$(BIN)/python infra/local_cluster.py down

ui: .venv/.installed  ## the MLflow UI on http://127.0.0.1:5000, or another UI_PORT
	@mkdir -p runs
	@$(BIN)/python -c 'import socket; socket.create_server(("127.0.0.1", $(UI_PORT)))' 2>/dev/null || \
	    { echo "error: port $(UI_PORT) is taken: make ui UI_PORT=5001"; exit 2; }
	@echo "the runs are at http://127.0.0.1:$(UI_PORT), under Model training; Ctrl-C ends the server"
	@MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/mlflow server --workers 1 \
	    --host 127.0.0.1 --port $(UI_PORT) \
	    --backend-store-uri $${MLFLOW_TRACKING_URI:-sqlite:///$(CURDIR)/runs/mlflow.db}
