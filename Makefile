# Sets up .venv from the locks with nothing but Python's own venv and pip, then runs one thing.
#
#   make demo    compare the shop's architectures on this machine; table and out/report/index.html
#   make test    all tests
#   make seeds   10,000 random schedules of each protocol, none of which may fail; about half an hour
#   make lint    ruff (what it finds, and how it formats) and mypy
#   make bench   the benchmarks, beside SimPy, gRPC, Traefik, and HAProxy where it is installed; about an hour
#   make lock    resolve pyproject.toml again (needs uv; no other target does)
#   make clean   remove everything that these targets made
#
# PYTHON=python3.13 make ...   chooses the interpreter (3.11 or newer) of a new .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV ?= uv

# Wheels only: a missing wheel is one clear line, not a compiler's error.  Byte code is made for what is
# imported, not for everything: that is 70 MB less.
PIP_INSTALL := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --no-input
PIP_LOCKED := $(PIP_INSTALL) --require-hashes --only-binary :all:

# A stamp is the record that a lock was installed; it is older than the lock when the lock changed.
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
INSTALLED_BENCH := $(VENV)/.installed-bench

.PHONY: demo test seeds lint bench lock clean
.DELETE_ON_ERROR:

demo: $(INSTALLED)
	$(BIN)/polyarch compare shop --on local --report out/report --json out/compare.json

test: $(INSTALLED_DEV)
	$(BIN)/python -m pytest -n 2 --dist loadfile

seeds: $(INSTALLED_DEV)
	POLYARCH_SEEDS=10000 $(BIN)/python -m pytest -s tests/architectures/test_clean_seeds.py

lint: $(INSTALLED_DEV)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(INSTALLED_BENCH)
	mkdir -p out/benchmarks
	$(BIN)/python benchmarks/simulator.py --json out/benchmarks/simulator.json
	$(BIN)/python benchmarks/rpc.py --json out/benchmarks/rpc.json
	$(BIN)/python benchmarks/load.py --json out/benchmarks/load.json
	$(BIN)/python benchmarks/switches.py --json out/benchmarks/switches.json
	$(BIN)/python benchmarks/overlays.py --sizes 100,1000,10000 --json out/benchmarks/overlays.json

# The two lines before `venv` name what is missing: Debian ships python3 without ensurepip.
$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "polyarch: no $(PYTHON) on the path; install Python 3.11 or newer, or run: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "polyarch: $(PYTHON) is older than Python 3.11; run: make PYTHON=python3.11 (or newer)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "polyarch: $(PYTHON) cannot make virtual environments; run: sudo apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The project itself is installed in place, by the build backend that the lock pins.
$(INSTALLED): requirements.lock pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV) (once; about 300 MB)"
	$(PIP_LOCKED) -r requirements.lock
	$(PIP_INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

$(INSTALLED_DEV): requirements-dev.lock $(INSTALLED)
	$(PIP_LOCKED) -r requirements-dev.lock
	@touch $@

$(INSTALLED_BENCH): requirements-bench.lock $(INSTALLED)
	$(PIP_LOCKED) -r requirements-bench.lock
	@touch $@

# Each lock holds one layer; the upper ones are resolved under the pins of the first.
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--no-header --no-emit-index-url --no-emit-find-links --upgrade
lock:
	$(COMPILE) pyproject.toml --group build --output-file requirements.lock
	$(COMPILE) --group dev --constraint requirements.lock --output-file requirements-dev.lock
	$(COMPILE) --group bench --constraint requirements.lock --output-file requirements-bench.lock

clean:
	rm -rf $(VENV) out .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
