# Set-up, demo, tests and linters; needs Python 3.11 or later and make, nothing else.
# `make quick` needs neither PyTorch nor several GB.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
QUICK := .venv-quick
QUICK_TESTS := tests/test_architecture.py tests/test_ci.py tests/test_contributing.py tests/test_release.py
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input install --quiet

.PHONY: help install demo quick test test-slow test-all lint format docs clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(VENV)/.installed: requirements.txt setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or later is needed: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing PyTorch and the rest into $(VENV) (several GB, a few minutes)"
	$(PIP) -r requirements.txt
	$(PIP) --no-deps -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt requirements-quick.txt
	$(PIP) -r requirements-dev.txt
	@touch $@

$(QUICK)/.installed: requirements-quick.txt
	test -x $(QUICK)/bin/python || $(PYTHON) -m venv $(QUICK)
	$(QUICK)/bin/python -m pip --disable-pip-version-check --no-input install --quiet -r requirements-quick.txt
	@touch $@

$(VENV)/.installed-docs: requirements-docs.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -r requirements-docs.txt
	@touch $@

install: $(VENV)/.installed  ## the virtual environment in .venv with the pinned versions

demo: $(VENV)/.installed  ## train both stages on the synthetic dataset: runs/demo/inpainted.png
	$(BIN)/python -m wssl_pl demo

quick: $(QUICK)/.installed  ## ruff, syntax, and the tests that need no PyTorch; well under a minute
	$(QUICK)/bin/ruff check .
	$(QUICK)/bin/ruff format --check .
	$(QUICK)/bin/python -m compileall -q wssl_pl benchmarks tests train.py
	$(QUICK)/bin/python -m pytest -q $(QUICK_TESTS)

test: $(VENV)/.installed-dev  ## the tests that take a few seconds; line coverage below 90 % is a failure
	$(BIN)/python -m pytest -q -n auto -m "not slow" --cov --cov-report=term --cov-report=xml

test-slow: $(VENV)/.installed-dev  ## the other tests: DDP, studies on Ray, the browser, kills
	$(BIN)/python -m pytest -q -n auto -m slow

test-all: $(VENV)/.installed-dev  ## both in one go, in less time; coverage is that of `make test`
	$(BIN)/python -m pytest -q -n auto --maxschedchunk=1 --cov --cov-report=term --cov-report=xml

lint: $(VENV)/.installed-dev  ## ruff, ruff format and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-docs  ## the documentation site in site/; any warning is a failure
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:  ## remove what tools left behind, never data or runs
	rm -rf .pytest_cache .ruff_cache .mypy_cache .coverage .coverage.* coverage.xml site build dist *.egg-info
