# Targets for people; `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := $(VENV)/.ready-demo
READY := $(VENV)/.ready
LOCALSTACK := .venv-localstack
QUILT3_LOCAL := .venv-quilt3-local
MATRIX := .venv-matrix
ROWS := $(basename $(notdir $(wildcard testbed/pins/*.txt)))

# Left out: what starts whole Airflows, and what counts how heavy DAG files are.
IN_MATRIX = tests/airflow $(addprefix --ignore=tests/airflow/test_,kill.py lost_success.py parsing.py)

.DEFAULT_GOAL := help
.PHONY: help demo test test-matrix test-oldest test-newest pins e2e e2e-celery chaos bench bench-growth bench-settings bench-shards bench-watch \
  bench-network chromium celery-services compiler lint fix constraints clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9.-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(DEMO) ## Publish a real package twice with real Airflow, on an S3 store that starts and stops with it
	@KEEP=$(KEEP) $(BIN)/python -m demo

# Three workers, for two cores: a third of the time tests wait for servers.
test: $(READY) $(LOCALSTACK)/.ready $(QUILT3_LOCAL)/.ready ## Run the tests, against real servers on loopback; those of whole programs are `make e2e`
	@$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

test-matrix: $(addprefix row-,$(ROWS)) ## Run the provider's tests with the versions of each file in testbed/pins; make row-airflow-3.1.8 for one of them

test-oldest: row-airflow-3.0.6 ## Run the row of the oldest Airflow that is supported

# `make test` runs all of them under the newest Airflow already, with newer libraries: here those that meet Airflow's own parts.
test-newest: IN_MATRIX = $(patsubst %,tests/airflow/test_%.py,assets decorators hook operators provider_info sensors task_groups triggers)
test-newest: row-airflow-3.3.2 ## Run most of the row of the newest Airflow, as it is installed under its constraints

row-%: $(MATRIX)/%/.ready
	@if [ -x $(MATRIX)/$*/bin/python ]; then echo "Testing with the versions of testbed/pins/$*.txt" && \
	  $(MATRIX)/$*/bin/python -m pytest -p no:anyio --numprocesses 2 --dist loadfile $(IN_MATRIX); \
	  else echo "The matrix is for Python 3.11 and 3.12: $* is left out"; fi

e2e: $(READY) chromium ## Run whole programs: a real Airflow with a browser in front, the demo, the benchmarks; SCREENSHOTS=1 renews the pictures
	@SCREENSHOTS=$(SCREENSHOTS) $(BIN)/python -m pytest tests/e2e

e2e-celery: $(READY) celery-services ## Push 20,000 objects with two Celery workers, then with local tasks, under a real Airflow, and kill half-way
	@$(BIN)/python -m pytest tests/e2e_celery

chaos: $(READY) ## Fail and kill at every call, race, starve, corrupt: the long tests behind docs/reliability.md, with figures (an hour or two)
	@$(BIN)/python -m pytest tests/chaos

bench: $(READY) ## Measure the core beside quilt3 and s5cmd; ARGS="--scale 0.05 --rounds 1 push-small" for a quick look
	@$(BIN)/python -m benchmarks $(ARGS)

bench-network: $(READY) compiler ## Measure it through networks with a delay (a quarter of an hour); ARGS="--rounds 1 --at 25 push-small" for a quick look
	@$(BIN)/python -m benchmarks.network $(ARGS)

bench-growth: $(READY) ## Measure how time and memory grow with the number of entries; ARGS="--largest 10000000" for one step more
	@$(BIN)/python -m benchmarks.growth $(ARGS)

bench-shards: $(READY) ## Measure what it costs to share a package among workers; ARGS="--largest 10000000" for one step more
	@$(BIN)/python -m benchmarks.shards $(ARGS)

bench-settings: $(READY) ## Measure other settings than the defaults; ARGS="--scale 0.05 --rounds 1" for a quick look
	@$(BIN)/python -m benchmarks.threads $(ARGS)
	@$(BIN)/python -m benchmarks.in_flight $(ARGS)
	@$(BIN)/python -m benchmarks.spill $(ARGS)

bench-watch: $(READY) ## Measure what watching packages costs a triggerer (half an hour); ARGS="--minutes 1 one" for a quick look
	@$(BIN)/python -m benchmarks.watched $(ARGS)

lint: $(READY) ## Check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: $(READY) ## Mend what the linter can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

constraints: $(READY) ## Choose the newest versions that fit together, for constraints.txt
	$(BIN)/uv pip compile --universal --python-version 3.11 --upgrade --no-annotate --no-header --quiet \
	  --no-emit-package airflow-quilt --group dev --group compiler pyproject.toml --output-file constraints.txt

pins: $(READY) ## Derive the versions in testbed/pins again, from the days of the releases of Airflow
	$(BIN)/pip install --quiet uv
	$(BIN)/python -m testbed.pins

clean: ## Remove the virtual environments and everything that tools left
	rm -rf $(VENV) $(LOCALSTACK) $(QUILT3_LOCAL) $(MATRIX) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist

# uv installs in a third of the time; pip, which comes new because dependency groups need that, where uv does not reach the index
# that pip is set to. Twice quiet: only errors.
PIP := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt
INSTALL = $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --build-constraint constraints.txt \
  --group $(1) --editable . 2>/dev/null || $(PIP) --build-constraint constraints.txt --group $(1) --editable .

$(DEMO): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with make PYTHON=...")'
	@echo "Installing Airflow into $(VENV) (about a minute the first time) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) pip uv
	@$(call INSTALL,demo)
	@touch $@

$(READY): $(DEMO)
	@echo "Installing the tools of the developers into $(VENV) ..."
	@$(call INSTALL,dev)
	@touch $@

# The browser is no Python package: it is installed where that can be done, and asked for elsewhere.
chromium:
	@if ! { command -v chromium || command -v chromium-browser || command -v google-chrome; }; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get; then \
	    echo "Installing chromium ..." >&2 && apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; \
	  else echo "make e2e needs a browser; install chromium, such as with: sudo apt-get install chromium" >&2; exit 1; fi; fi >/dev/null

# Nor are the database and the broker. Debian keeps PostgreSQL's programs in a folder of their own.
celery-services:
	@if ! { command -v redis-server && { command -v initdb || ls /usr/lib/postgresql/*/bin/initdb; }; } 2>/dev/null; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get; then \
	    echo "Installing redis-server and postgresql ..." >&2 && apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends redis-server postgresql; \
	  else echo "make e2e-celery needs Redis and PostgreSQL; install them, such as with: sudo apt-get install redis-server postgresql" >&2; exit 1; \
	  fi; fi >/dev/null

# The network of the benchmarks is C. Where there is no compiler, the package ziglang is one (440 MB).
compiler:
	@command -v $${CC:-cc} >/dev/null || $(BIN)/python -c 'import ziglang' 2>/dev/null || \
	  { echo "Installing a C compiler into $(VENV) ..." && $(call INSTALL,compiler); }

# LocalStack, a second S3 server for the tests, is pinned for Python 3.11 and wants an environment of its own.
$(LOCALSTACK)/.ready: testbed/localstack-py311.txt
	@mkdir -p $(LOCALSTACK)
	@if $(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then \
	  echo "Installing LocalStack into $(LOCALSTACK) ..." && $(PYTHON) -m venv $(LOCALSTACK) && \
	  $(LOCALSTACK)/bin/python -m pip install --quiet --quiet --disable-pip-version-check --no-deps --requirement $<; fi
	@touch $@

# quilt3-local, Quilt's own catalog for the tests, ends at Python 3.11 and pins another botocore than ours.
$(QUILT3_LOCAL)/.ready: testbed/quilt3_local.txt
	@mkdir -p $(QUILT3_LOCAL)
	@if $(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then \
	  echo "Installing quilt3-local into $(QUILT3_LOCAL) ..." && $(PYTHON) -m venv $(QUILT3_LOCAL) && \
	  $(QUILT3_LOCAL)/bin/python -m pip install --quiet --quiet --disable-pip-version-check --no-deps --requirement $<; fi
	@touch $@

# A row of the matrix: exactly the versions of its file. Airflow 3.0 ends at Python 3.12.
$(MATRIX)/%/.ready: testbed/pins/%.txt pyproject.toml
	@mkdir -p $(MATRIX)/$*
	@if $(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in {(3, 11), (3, 12)})'; then \
	  echo "Installing $* into $(MATRIX)/$* ..." && $(PYTHON) -m venv $(MATRIX)/$* && \
	  $(MATRIX)/$*/bin/python -m pip install --quiet --quiet --disable-pip-version-check --no-deps --requirement $< && \
	  $(MATRIX)/$*/bin/python -m pip install --quiet --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .; fi
	@touch $@
.PRECIOUS: $(MATRIX)/%/.ready
