# Everything runs in .venv, which uv fills; uv is in .uv. Nothing outside this folder is installed.
# pyproject.toml ── make lock ──> requirements/*.txt (versions, hashes) ── uv ──> .venv
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
UV := .uv/bin/uv
STAMP := $(VENV)/.installed
DEMO := $(VENV)/.demo

.PHONY: demo lock test test-slow check format clean compiler kind

demo: compiler $(DEMO)
	$(BIN)/headrace demo

# Tests of a running cluster have the machine to themselves, so each folder of them is a run of its
# own, at whose end its cluster ends. The others come first, and share the machine, a process per
# core, in their order: compilers run in the first ones, so no core waits for one at the end. Those
# marked slow run one after another. Artifacts that many serve are built once for all. What fails
# keeps nothing after it from running.
CLUSTER_TESTS := tests/deployments tests/serve tests/closed tests/faults tests/kuberay tests/nodes
test: MARKED := not slow
test: FIRST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
test-slow: MARKED := slow
test-slow: FIRST := $(BIN)/python -m pytest
test-slow: NONE_IN_THIS_FOLDER := || [ $$? = 5 ]
test test-slow: compiler $(STAMP)
	@export HEADRACE_TEST_STORES=$$(mktemp -d); \
	trap 'rm -rf "$$HEADRACE_TEST_STORES"' EXIT; trap 'exit 130' INT TERM; set -x; failed=0; \
	$(FIRST) -m "$(MARKED)" $(CLUSTER_TESTS:%=--ignore=%) || failed=1; \
	for folder in $(CLUSTER_TESTS); do \
	  $(BIN)/python -m pytest -m "$(MARKED)" $$folder $(NONE_IN_THIS_FOLDER) || failed=1; \
	done; \
	exit $$failed

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

$(UV): requirements/uv.txt
	$(PYTHON) -m venv --clear .uv
	.uv/bin/python -m pip install --quiet --require-hashes --requirement requirements/uv.txt
	touch $(UV)

# An environment starts empty, so that two runs of one commit install the same files; from uv's cache
# this takes seconds.
define environment
	$(PYTHON) -m venv --clear --without-pip $(VENV)
	$(UV) pip sync --require-hashes --python $(BIN)/python requirements/$(1).txt
	$(UV) pip install --no-deps --no-build-isolation --python $(BIN)/python --editable .
endef

$(DEMO): pyproject.toml requirements/demo.txt | $(UV)
	$(call environment,demo)
	touch $(DEMO)

# The packages of dev include those of the demo.
$(STAMP): pyproject.toml requirements/dev.txt | $(UV)
	$(call environment,dev)
	touch $(DEMO) $(STAMP)

# Pins each dependency of pyproject.toml. A pin that still satisfies it stays; for newer releases,
# delete dev.txt and demo.txt first.
LOCK = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-annotate --custom-compile-command "make lock"
lock: $(UV)
	$(LOCK) pyproject.toml --extra dev --group build --output-file requirements/dev.txt
	$(LOCK) pyproject.toml --extra openvino --group build --constraints requirements/dev.txt \
	  --output-file requirements/demo.txt
	$(LOCK) --group uv --output-file requirements/uv.txt

# The digit classifier on a kind cluster; see k8s/README.md.
kind:
	k8s/kind.sh

clean:
	rm -rf $(VENV) .uv .mypy_cache .ruff_cache .pytest_cache
