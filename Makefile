# Everything runs in .venv, installed by the uv in .uv. Nothing is installed outside this folder.
# pyproject.toml ── make lock ──> requirements/*.txt (versions, hashes) ── uv ──> .venv
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
UV := .uv/bin/uv
STAMP := $(VENV)/.installed
DEMO := $(VENV)/.demo

# Bytecode is written: without it, each of the hundred processes of a test run, and each replica,
# compiles the thousands of modules of torch and Ray again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo lock test test-slow test-nodes check format clean compiler kind

demo: compiler $(DEMO)
	$(BIN)/headrace demo

# test        tests for every edit, with a goal of ten minutes: first those without a cluster, two
#             at a time, then those marked `cluster` (by tests/conftest.py), alone on the machine; one process
#             for each folder, which stops its clusters when it ends
# test-nodes  several nodes on this machine; needs root
# test-slow   tests marked `slow` of all other folders: long faults, long builds
# After a failure the remaining groups still run.
PYTEST := $(BIN)/python -m pytest --durations=25 --durations-min=1
CLUSTERS := tests/headrace tests/deployments tests/serve tests/closed tests/faults tests/kuberay
# pytest's status 5: no test was selected
NO_TESTS_OK := || [ $$? = 5 ]
test: compiler $(STAMP)
	@trap 'exit 130' INT TERM; set -x; failed=0; \
	OMP_NUM_THREADS=1 $(PYTEST) -n 2 --dist loadfile --no-loadscope-reorder \
	  -m "not slow and not cluster" --ignore=tests/nodes || failed=1; \
	for folder in $(CLUSTERS); do \
	  $(PYTEST) -m "cluster and not slow" $$folder $(NO_TESTS_OK) || failed=1; \
	done; \
	exit $$failed

test-slow: compiler $(STAMP)
	@trap 'exit 130' INT TERM; set -x; failed=0; \
	$(PYTEST) -m slow --ignore=tests/nodes $(CLUSTERS:%=--ignore=%) || failed=1; \
	for folder in $(CLUSTERS); do $(PYTEST) -m slow $$folder $(NO_TESTS_OK) || failed=1; done; \
	exit $$failed

test-nodes: compiler $(STAMP)
	$(PYTEST) tests/nodes

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Programs are compiled to native code: check for a compiler before gigabytes are installed.
compiler:
	@command -v $${CXX:-g++} > /dev/null || { \
	  echo "no C++ compiler: install one (Debian, Ubuntu: apt-get install g++) or set CXX" >&2; exit 1; }

$(UV): requirements/uv.txt
	$(PYTHON) -m venv --clear .uv
	.uv/bin/python -m pip install --quiet --require-hashes --requirement requirements/uv.txt
	touch $(UV)

# An environment starts empty, so that two runs of one commit install the same files; this takes
# seconds with uv's cache. Only Ray's bytecode is compiled here, because its start has a time limit.
define environment
	$(PYTHON) -m venv --clear --without-pip $(VENV)
	$(UV) pip sync --require-hashes --python $(BIN)/python requirements/$(1).txt
	$(BIN)/python -m compileall -q -j 2 $(VENV)/lib/python3*/site-packages/ray
	$(UV) pip install --no-deps --no-build-isolation --python $(BIN)/python --editable .
endef

$(DEMO): pyproject.toml requirements/demo.txt | $(UV)
	$(call environment,demo)
	touch $(DEMO)

# The packages of dev include those of the demo.
$(STAMP): pyproject.toml requirements/dev.txt | $(UV)
	$(call environment,dev)
	touch $(DEMO) $(STAMP)

# Pins each dependency of pyproject.toml and keeps pins that still satisfy it. For newer releases,
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
