# Each target does its own set-up: a Python of at least 3.11, make and git are all it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := _annolab_async_pytest.py annolab_async benchmarks docs/examples tests
UV ?= $(shell command -v uv 2>/dev/null)
# More than processors: some tests wait.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) '*' 2)
EXTRAS := aiohttp,arrow,cli,emulator,ledger,otel,pandas,postgres,report,testing

# uv makes the environment in a tenth of the time of pip, where it is installed (`make UV= …` does without).
ifneq ($(UV),)
MAKE_VENV := $(UV) venv --quiet --seed --python $(PYTHON) $(VENV)
INSTALL := $(UV) pip install --quiet --python $(BIN)/python --constraint constraints.txt --build-constraint constraints.txt
else
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
MAKE_VENV := $(PYTHON) -m venv $(VENV) && $(PIP) install --constraint constraints.txt --upgrade pip
INSTALL := $(PIP) install --constraint constraints.txt --build-constraint constraints.txt
endif

.PHONY: help demo test check lint types mypy pyright pytest thorough mutants format bench bench-quick clean
.DEFAULT_GOAL := help

help: ## show what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

demo: $(VENV)/demo.ready ## 300 batches against a local AnnoLab: watch them, then kill a fan-out halfway (ARGS="--batches 1000" to change)
	@$(BIN)/annolab-async demo $(ARGS)

# The type checkers run beside the tests, which sometimes wait.
test: lint ## what every change needs: style, layers, types, tests, in under 4 minutes on 2 cores
	@$(MAKE) --no-print-directory types >$(VENV)/types.log 2>&1 & types=$$!; \
		$(MAKE) --no-print-directory pytest; tests=$$?; \
		wait $$types; types=$$?; cat $(VENV)/types.log; \
		[ $$tests = 0 ] && [ $$types = 0 ]

check: ## all that CI does, in half an hour: more surroundings, Pythons and repetitions, coverage, the wheel, the benchmarks
	@bash .ci/run

lint: $(VENV)/dev.ready ## style and layers
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/lint-imports

types: mypy pyright ## mypy --strict and pyright strict

mypy: $(VENV)/dev.ready
	$(BIN)/mypy

pyright: $(VENV)/dev.ready
	$(BIN)/basedpyright

pytest: $(VENV)/dev.ready ## the tests (ARGS="-k watcher" to choose)
	$(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=worksteal -rfEs $(ARGS)

thorough: $(VENV)/dev.ready ## what is left to chance (faults, kills, cancellations), as often as docs/reliability.md says
	TEST_DEPTH=thorough $(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=worksteal --timeout=400 -rfEs $(ARGS)

mutants: $(VENV)/dev.ready ## how many of 200 small changes of the core the tests notice (ARGS="--seed 8 annolab_async/ledger" to choose)
	$(BIN)/python -m tests.mutants $(ARGS)

format: $(VENV)/dev.ready ## let ruff put the code in order
	$(BIN)/ruff check --fix-only $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: $(VENV)/bench.ready ## what polls and ledgers cost, how soon an end is seen: tables, JSON in dist/, pictures in docs/
	@mkdir -p dist
	$(BIN)/python -m benchmarks.poll_cost --json dist/poll_cost.json --svg docs/poll_cost.svg
	$(BIN)/python -m benchmarks.schedule_delay --json dist/schedule_delay.json --svg docs/schedule_delay.svg
	$(BIN)/python -m benchmarks.fan_out --json dist/fan_out.json
	$(BIN)/python -m benchmarks.export_reading --json dist/export_reading.json

bench-quick: $(VENV)/bench.ready ## the same in a minute and a half; fails if a figure is twice its target
	$(BIN)/python -m benchmarks.poll_cost --quick
	$(BIN)/python -m benchmarks.schedule_delay --quick
	$(BIN)/python -m benchmarks.fan_out --quick
	$(BIN)/python -m benchmarks.export_reading --quick

clean: ## remove the environment and all that was built
	rm -rf $(VENV) .mypy_cache .mutants .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage dist

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "annolab_async needs Python 3.11 or newer; say which: make PYTHON=python3.12" >&2; exit 1; }
	$(MAKE_VENV)

$(VENV)/demo.ready: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[cli,emulator,ledger]'
	@touch $@

$(VENV)/dev.ready: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[$(EXTRAS)]' --group dev
	@touch $@ $(VENV)/demo.ready

$(VENV)/bench.ready: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[aiohttp,cli,emulator,ledger,otel,postgres]' --group bench
	@touch $@ $(VENV)/demo.ready
