# Two commands for a fresh machine (Python >= 3.11, pip, g++, make): `make demo` and `make test`. `make docs`: the site, in docs/_build/html.
# JOBS: processes of `make test`. VENV: where the virtual environment goes; BENCH: the one with the other packages compared; AUDIT: the one with the tools of `make audit`. TORCH: what to install for PyTorch; a CPU build is enough.
VENV ?= .venv
BENCH ?= .venv-bench
AUDIT ?= build/audit-venv
PYTHON ?= python3
SECONDS ?= 3600
JOBS ?= 2
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin
CORE := $(wildcard conelayers/core/src/*) conelayers/core/CMakeLists.txt conelayers/numerics/quadratic/kernel.c

.PHONY: demo test check lint audit bench sweep fuzz sanitize docs package clean

demo: $(VENV)/.demo
	$(BIN)/python examples/quickstart.py

# In two processes, each with one thread of BLAS: more would fight for the cores.
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS)

# For the loop while writing: lint, and the first case of every test but those for JAX and the fuzzing; some two minutes.
check: lint $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --once

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Known vulnerabilities of what $(VENV) holds (.ci/audit.py), and the bill of it in build/bill.json (CycloneDX). The tools, in an
# environment of their own, audit and list the other one only.
audit: $(VENV)/.dev $(AUDIT)/.audit
	mkdir -p build
	rm -f build/audit.json
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > build/site
	-$(AUDIT)/bin/pip-audit --path "$$(cat build/site)" --progress-spinner off --timeout 15 --format json --output build/audit.json > build/audit.log 2>&1
	$(AUDIT)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-file build/bill.json $(BIN)/python
	$(BIN)/python .ci/audit.py build/audit.json

# In an environment of its own: where the solver Moreau is installed, cvxpy imports it, and that imports PyTorch and JAX.
bench: $(BENCH)/.bench
	$(BENCH)/bin/python -m benchmarks.run $(if $(QUICK),--quick) $(if $(JSON),--json $(JSON))

sweep: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

# Runs the examples and the Python of every page; what has not changed since the last build is not run again.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

# Wheel and sdist in dist/, installed and tested in empty environments with the oldest and the newest dependencies: some 5 minutes.
package:
	PYTHON='$(PYTHON)' TORCH='$(TORCH)' .ci/package $(TESTS)

# Random cone programs, problems and changes of units for SECONDS; SEED repeats a run. Ends with 1 where an invariant did not hold.
fuzz: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python tests/helpers/fuzz.py --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(if $(KIND),--kind $(KIND))

# The compiled core's tests under AddressSanitizer and UndefinedBehaviorSanitizer.
sanitize: $(VENV)/.dev
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python tests/core/run_sanitized.py

$(AUDIT)/.audit:
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet 'pip-audit>=2.10,<3' 'cyclonedx-bom>=7,<8'
	touch $@

$(BENCH)/.bench: pyproject.toml $(CORE)
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

# Installing builds the compiled core, a minute or two on two cores; again where its sources have changed.
$(VENV)/.package: pyproject.toml $(CORE) | $(VENV)/.torch
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.demo: $(VENV)/.package
	$(BIN)/python -m pip install --quiet 'conelayers[torch]' 'scikit-learn>=1.7'
	touch $@

$(VENV)/.dev: $(VENV)/.package
	$(BIN)/python -m pip install --quiet 'conelayers[torch,jax,dev]'
	touch $@ $(VENV)/.demo

$(VENV)/.docs: $(VENV)/.package
	$(BIN)/python -m pip install --quiet 'conelayers[torch,jax,docs]'
	touch $@

clean:
	rm -rf docs/_build docs/_gallery_source docs/_generated docs/api docs/gallery
	rm -rf $(VENV) $(BENCH) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
