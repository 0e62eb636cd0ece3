# Everything runs in a virtual environment of its own, .venv; nothing else is touched.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-slow check format clean compiler kind

demo: compiler $(STAMP)
	$(BIN)/headrace demo

# Tests of a running cluster have the machine to themselves; the others share it, a process per core.
CLUSTER_TESTS := tests/deployments tests/serve tests/closed tests/faults tests/kuberay tests/nodes
test: compiler $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile \
	  $(CLUSTER_TESTS:%=--ignore=%)
	$(BIN)/python -m pytest -m "not slow" $(CLUSTER_TESTS)

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Programs are compiled to native code; better to say so before gigabytes are installed.
compiler:
	@command -v $${CXX:-g++} > /dev/null || { \
	  echo "no C++ compiler: install one (Debian, Ubuntu: apt-get install g++) or set CXX" >&2; exit 1; }

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $(STAMP)

# The digit classifier on a kind cluster; see k8s/README.md.
kind:
	k8s/kind.sh

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
