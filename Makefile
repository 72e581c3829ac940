PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: venv demo frontier published test test-all test-compat lint docs

venv: $(VENV)/.stamp

$(VENV)/.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev]"
	touch $@

$(VENV)/.docs-stamp: $(VENV)/.stamp
	$(BIN)/python -m pip install -c constraints.txt -e ".[docs]"
	touch $@

demo: venv
	$(BIN)/python examples/demo.py

frontier: venv
	$(BIN)/python examples/frontier.py

published: venv
	$(BIN)/python examples/published.py

test: venv
	$(BIN)/python -m pytest -m "not slow and not compat"

test-all: venv
	$(BIN)/python -m pytest -m "not compat"

test-compat: venv
	$(BIN)/python -m pytest -m compat

lint: venv
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(VENV)/.docs-stamp
	$(BIN)/mkdocs build --strict
