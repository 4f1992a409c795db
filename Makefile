# Each target does its own set-up: a Python of at least 3.11, make and git are all it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
INSTALL := $(PIP) install --constraint constraints.txt --build-constraint constraints.txt
REPEATED := tests/crash tests/fan_out tests/faults tests/results
SOURCES := _annolab_async_pytest.py annolab_async benchmarks docs/examples tests

.PHONY: help demo test lint types pytest thorough format bench bench-quick clean
.DEFAULT_GOAL := help

help: ## show what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

demo: $(VENV)/demo.ready ## 300 batches against a local AnnoLab: watch them, then kill a fan-out halfway (ARGS="--batches 1000" to change)
	@$(BIN)/annolab-async demo $(ARGS)

test: lint types pytest ## every check that CI makes: style, types, layers, tests, coverage

lint: $(VENV)/dev.ready ## style and layers
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/lint-imports

types: $(VENV)/dev.ready ## mypy --strict and pyright strict
	$(BIN)/mypy
	$(BIN)/basedpyright

pytest: $(VENV)/dev.ready ## the tests, with branch coverage (ARGS="-k watcher" to choose)
	$(BIN)/python -m pytest --numprocesses=auto --cov --cov-report=term -rs $(ARGS)

# Without coverage, whose tracing makes stalls longer than they are.
thorough: $(VENV)/dev.ready ## faults, kills and cancellations as often as docs/reliability.md says: ten times as often as in the tests
	FAULTS=thorough $(BIN)/python -m pytest --numprocesses=auto --timeout=400 $(REPEATED) $(ARGS)

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
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage dist

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "annolab_async needs Python 3.11 or newer; say which: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt --upgrade pip

$(VENV)/demo.ready: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[cli,emulator,ledger]'
	@touch $@

$(VENV)/dev.ready: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[aiohttp,arrow,cli,emulator,ledger,otel,pandas,postgres,report,testing]' --group dev
	@touch $@ $(VENV)/demo.ready

$(VENV)/bench.ready: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[aiohttp,cli,emulator,ledger,otel,postgres]' --group bench
	@touch $@ $(VENV)/demo.ready
