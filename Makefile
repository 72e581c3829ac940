PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two workers of one thread each, on two cores; a worker that has no tests left takes some of the other's.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
WORKERS := -n 2 --dist worksteal

.PHONY: venv demo first frontier report bench scaling published commands test test-all test-compat lint docs package

venv: $(VENV)/.stamp

$(VENV)/.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev]"
	# Without what it depends on: tests read CLIP's list of tokens from it, nothing else.
	$(BIN)/python -m pip install -c constraints.txt --no-deps open_clip_torch
	# Without what it depends on, which `dev` lists: Gradio asks for Pillow 12, and runs with 13.
	$(BIN)/python -m pip install -c constraints.txt --no-deps gradio
	touch $@

$(VENV)/.docs-stamp: $(VENV)/.stamp
	$(BIN)/python -m pip install -c constraints.txt -e ".[docs]"
	touch $@

$(VENV)/.package-stamp: $(VENV)/.stamp
	$(BIN)/python -m pip install -c constraints.txt -e ".[package]"
	touch $@

demo: venv
	PYTHONPATH=examples $(BIN)/diffusers-esd demo

frontier: venv
	cd examples && ../$(BIN)/python -m frontier --output ../frontier-output

report: venv
	cd examples && ../$(BIN)/python -m report --cache ../.report-cache --output ../report-output

bench: venv
	cd examples && ../$(BIN)/python -m benchmarks speed
	cd examples && ../$(BIN)/python -m benchmarks erasing

scaling: venv
	cd examples && ../$(BIN)/python -m benchmarks scaling --output ../scaling.svg

published: venv
	$(BIN)/python examples/published.py

commands: venv
	$(BIN)/python examples/commands.py

# How long a stranger needs from an empty environment to a saved erasure. PIP has further options of pip install.
first:
	$(PYTHON) tests/first_erasure.py build/first $(PIP)

test: venv
	$(PYTEST) $(WORKERS) -m "not slow and not compat"

test-all: venv
	$(PYTEST) $(WORKERS) -m "not compat"

test-compat: venv
	$(PYTEST) -m compat

lint: venv
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# The site, and what a browser makes of it.
docs: $(VENV)/.docs-stamp
	$(BIN)/mkdocs build --strict
	$(PYTEST) tests/whole/test_site.py

# Both distributions, and the wheels in an environment of their own, as a user has them.
package: $(VENV)/.package-stamp
	rm -rf dist build/installed
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m build --outdir dist examples/emoji_sd
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv build/installed
	build/installed/bin/python -m pip install -q -c constraints.txt --find-links dist "diffusers-esd[demo]"
	cd build && installed/bin/python ../tests/installed.py
