# What people type. `make` alone lists it.
# Everything is idempotent: what is there and up to date is left alone.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory --no-builtin-rules

VENV := .venv
BIN := $(VENV)/bin
# Any Python from 3.11 on; `make PYTHON=...` names another.
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3.14 python3,$(shell command -v $(name))))
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
ARGS ?=
PYTEST_ARGS ?=

.PHONY: help
help:
	@echo 'make run         the whole system on this machine; make run ARGS="--port 9000" passes options'
	@echo 'make test        lint and every test, with a real mosquitto and a real TimescaleDB'
	@echo 'make test-quick  the tests that take seconds'
	@echo 'make lint        format, lint, types and import rules'
	@echo 'make lock        write requirements/*.txt anew from pyproject.toml'

.PHONY: run
run: $(VENV)/.ready-local
	@$(BIN)/telemetry-bridge up $(ARGS)

.PHONY: test
test: $(VENV)/.ready-dev servers lint
	@echo 'Running every test.'
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

.PHONY: test-quick
test-quick: $(VENV)/.ready-dev
	@$(BIN)/python -m pytest -m 'not slow' $(PYTEST_ARGS)

.PHONY: lint
lint: $(VENV)/.ready-dev
	@echo 'Checking format, lint, types and imports.'
	@$(BIN)/ruff format --check
	@$(BIN)/ruff check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

# The servers that the tests need. Without root the tests that need a missing one are skipped, and say so.
.PHONY: servers
servers: $(VENV)/.ready-dev
	@tools/provide-test-servers $(BIN)/python

.PHONY: lock
lock:
	@tools/lock

$(VENV)/.created:
	@[ -n '$(PYTHON)' ] || { echo 'Python 3.11 or newer is needed (Debian, Ubuntu: apt-get install python3 python3-venv).' >&2; exit 1; }
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'Python 3.11 or newer is needed; $(PYTHON) is older. Name another: make PYTHON=/path/to/python3' >&2; exit 1; }
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  echo 'Creating the Python environment $(VENV).'; \
	  '$(PYTHON)' -m venv --clear $(VENV) \
	    || { echo 'No environment could be created (Debian, Ubuntu: apt-get install python3-venv).' >&2; exit 1; }; \
	fi
	@touch $@

# The project itself is installed editable, with the build backend that requirements/build.txt pins.
$(VENV)/.ready-local: $(VENV)/.created requirements/local.txt requirements/build.txt pyproject.toml
	@echo 'Installing what the system needs into $(VENV) (about a minute the first time).'
	@$(PIP) --require-hashes -r requirements/local.txt -r requirements/build.txt
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

# A superset of the above in the same environment: pins that are in both files are equal (tests/test_repository.py).
$(VENV)/.ready-dev: $(VENV)/.created requirements/dev.txt requirements/build.txt pyproject.toml
	@echo 'Installing what the system and its tests need into $(VENV) (about a minute the first time).'
	@$(PIP) --require-hashes -r requirements/dev.txt -r requirements/build.txt
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $(VENV)/.ready-local $@
