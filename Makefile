# Two commands for a fresh machine (Python >= 3.11, pip, gcc, make): `make demo` and `make test`.
# VENV: where the virtual environment goes. TORCH: what to install for PyTorch; a CPU build is enough.
VENV ?= .venv
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin

.PHONY: demo test lint bench sweep clean

demo: $(VENV)/.demo
	$(BIN)/python examples/quickstart.py

test: $(VENV)/.dev
	$(BIN)/python -m pytest

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --editable '.[torch,dev,bench]'
	$(BIN)/python benchmarks/dense_qp.py

sweep: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# PyTorch goes first: a plain `torch` would take a build with gigabytes of CUDA.
$(VENV)/.torch: | $(BIN)/python
	$(BIN)/python -m pip install --quiet '$(TORCH)'
	touch $@

$(VENV)/.demo: pyproject.toml | $(VENV)/.torch
	$(BIN)/python -m pip install --quiet --editable '.[torch]' 'scikit-learn>=1.5'
	touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.torch
	$(BIN)/python -m pip install --quiet --editable '.[torch,dev]'
	touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
