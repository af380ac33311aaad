# Two commands for a fresh machine (Python >= 3.11, pip, gcc, make): `make demo` and `make test`.
# VENV: where the virtual environment goes; BENCH: the one with the other packages compared. TORCH: what to install for PyTorch; a CPU build is enough.
VENV ?= .venv
BENCH ?= .venv-bench
PYTHON ?= python3
SECONDS ?= 3600
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin

.PHONY: demo test lint bench sweep fuzz clean

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

# Random cone programs and problems for SECONDS; SEED repeats a run. Ends with 1 where an invariant did not hold.
fuzz: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz.py --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(if $(KIND),--kind $(KIND))

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

clean:
	rm -rf $(VENV) $(BENCH) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
