# Each target does its own set-up: a Python of at least 3.11, make and git are all it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
INSTALL := $(PIP) install --constraint constraints.txt --build-constraint constraints.txt
SOURCES := annolab_async tests

.PHONY: help demo test lint types pytest format clean
.DEFAULT_GOAL := help

help: ## show what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

demo: $(VENV)/demo.ready ## submit and watch 300 batches against a local AnnoLab (ARGS="--batches 1000" to change)
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
	$(BIN)/python -m pytest --numprocesses=auto --cov --cov-report=term $(ARGS)

format: $(VENV)/dev.ready ## let ruff put the code in order
	$(BIN)/ruff check --fix-only $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

clean: ## remove the environment and all that was built
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage dist

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "annolab_async needs Python 3.11 or newer; say which: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt --upgrade pip

$(VENV)/demo.ready: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[cli,emulator]'
	@touch $@

$(VENV)/dev.ready: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[aiohttp,cli,emulator]' --group dev
	@touch $@ $(VENV)/demo.ready
