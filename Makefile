# Two commands for a fresh machine (Python >= 3.11, pip, gcc, make): `make demo` and `make test`. `make docs`: the site, in docs/_build/html.
# VENV: where the virtual environment goes; BENCH: the one with the other packages compared. TORCH: what to install for PyTorch; a CPU build is enough.
VENV ?= .venv
BENCH ?= .venv-bench
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin

.PHONY: demo test lint bench sweep docs clean

demo: $(VENV)/.demo
	$(BIN)/python examples/quickstart.py

test: $(VENV)/.dev
	$(BIN)/python -m pytest

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# In an environment of its own: where the solver Moreau is installed, cvxpy imports it, and that imports PyTorch and JAX.
bench: $(BENCH)/.bench
	$(BENCH)/bin/python -m benchmarks.run $(if $(QUICK),--quick) $(if $(JSON),--json $(JSON))

sweep: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

# Runs the examples and the Python of every page; what has not changed since the last build is not run again.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

$(BENCH)/.bench: pyproject.toml
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --upgrade pip
	$(BENCH)/bin/python -m pip install --quiet '$(TORCH)'
	$(BENCH)/bin/python -m pip install --quiet --editable '.[torch,bench]'
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# PyTorch goes first: a plain `torch` would take a build with gigabytes of CUDA.
$(VENV)/.torch: | $(BIN)/python
	$(BIN)/python -m pip install --quiet '$(TORCH)'
	touch $@

$(VENV)/.demo: pyproject.toml | $(VENV)/.torch
	$(BIN)/python -m pip install --quiet --editable '.[torch]' 'scikit-learn>=1.6'
	touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.torch
	$(BIN)/python -m pip install --quiet --editable '.[torch,jax,dev]'
	touch $@ $(VENV)/.demo

$(VENV)/.docs: pyproject.toml | $(VENV)/.torch
	$(BIN)/python -m pip install --quiet --editable '.[torch,jax,docs]'
	touch $@

clean:
	rm -rf docs/_build docs/_gallery_source docs/_generated docs/api docs/gallery
	rm -rf $(VENV) $(BENCH) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
