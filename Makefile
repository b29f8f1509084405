# The targets below are all you need; `make` lists them.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
STAMP := $(VENV)/.installed
STAMP_DEV := $(VENV)/.installed-dev
INSTALL = $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable
SHELL := /bin/bash
UI_PORT ?= 5001
PREFECT_PORT ?= 4200
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DO_NOT_TRACK := true
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false

.PHONY: help
help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-12s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(STAMP)  ## build .venv with everything the pipeline needs (skipped when nothing changed)

.PHONY: setup-dev
setup-dev: $(STAMP_DEV)  ## the same, plus tests, linters and all extras

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "Python 3.11 to 3.13 is needed; name one, such as make setup PYTHON=python3.13; this is " + sys.version)'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 2; }
	$@ -m pip install --quiet --upgrade pip

$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) .
	$(BIN)/python -m stages gpt2-vocabulary
	@touch $@

$(STAMP_DEV): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) '.[dev]'
	$(BIN)/python -m stages gpt2-vocabulary
	@touch $(STAMP) $@

.PHONY: run
run: setup  ## run the pipeline in params.yaml and print a report
	@test -e .git || git rev-parse --git-dir > /dev/null 2>&1 || test "$$(dvc config core.no_scm)" = true || \
	  { echo 'This is not a git repository, perhaps because it was downloaded as an archive: run "git init", or "$(BIN)/dvc config --local core.no_scm true" to use DVC without git.' >&2; exit 2; }
	python -m stages check
	dvc repro
	python -m stages report

.PHONY: use
use: setup  ## write a preset to params.yaml: make use PRESET=own-text (KEEP=corpus,sample keeps these sections)
	python -m stages preset '$(PRESET)' --keep '$(KEEP)'

.PHONY: experiments
experiments: setup  ## list DVC's experiments: bits per byte, and the params that differ
	@dvc exp show --only-changed --no-pager --drop '.*/.*|filters|texts|weights|statistics|LICENSE|val_loss|standard_error|perplexity|margin|adaptive_.*|Created'

.PHONY: compare
compare: setup  ## show how two commits or experiments differ: make compare A=main [B=exp-name]
	@python -m stages compare $(if $(A),'$(A)') $(if $(B),'$(B)')

.PHONY: report
report: setup  ## write report.html, a page to send by email: make report REVISIONS="main exp-name"
	@python -m stages report --html report.html $(REVISIONS)

.PHONY: accept
accept: setup  ## keep existing outputs after a code edit that does not change them
	python -m stages accept

.PHONY: plan
plan: setup  ## estimate memory, time, disk and cost of a run: make plan PRESET=own-text HARDWARE=8xH100
	@python -m stages plan $(if $(PRESET),'$(PRESET)') $(if $(HARDWARE),--hardware '$(HARDWARE)')

.PHONY: ui
ui: setup  ## browse the runs in MLflow at http://127.0.0.1:5001
	python -m stages ui $(UI_PORT)

.PHONY: watch
watch: setup  ## print the link to the live curves of the current training run in MLflow
	@python -m stages watch http://127.0.0.1:$(UI_PORT) -- python -m stages ui $(UI_PORT)

.PHONY: up
up: setup  ## start Prefect (4200), a worker and MLflow's UI (5001) in the background
	@PREFECT_PORT=$(PREFECT_PORT) UI_PORT=$(UI_PORT) python -m pipelines.services up

.PHONY: down
down: setup  ## stop them; the next make up continues unfinished runs
	@python -m pipelines.services down

.PHONY: worker
worker: setup  ## run a worker for the server at PREFECT_API_URL: make worker POOL=gpt2-124m-openwebtext
	@python -m pipelines.deploy
	@exec python -m pipelines.services worker $(if $(POOL),--pool '$(POOL)')

.PHONY: test
test: setup-dev  ## run all tests except test-faults: unit tests and real miniature pipelines
	env -u PYTHONDONTWRITEBYTECODE python -m pytest  # it starts hundreds of processes

.PHONY: test-faults
test-faults: setup-dev  ## kill, cancel, starve and restart runs of a real Prefect server
	env -u PYTHONDONTWRITEBYTECODE python -m pytest -n3 --dist=loadfile --timeout=600 tests/faults

.PHONY: fuzz
fuzz: setup-dev  ## search for files that break the readers, until Ctrl-C
	HYPOTHESIS_PROFILE=long python -m pytest -x -n3 --dist=load --timeout=0 tests/stages/download/test_fuzz_readers.py

.PHONY: check
check: setup-dev  ## check format, lint and types
	ruff format --check .
	ruff check .
	mypy

.PHONY: format
format: setup-dev  ## fix what can be fixed automatically
	ruff check --fix --exit-zero .
	ruff format .

.PHONY: clean
clean:  ## remove .venv and the pipeline's outputs, but not texts, params or MLflow runs
	test ! -d runs/services || python -m pipelines.services down
	rm -rf $(VENV) build *.egg-info .cache data models metrics plots samples statistics
	test ! -d runs || find runs -mindepth 1 -maxdepth 1 ! -name tracking -exec rm -rf {} +
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
