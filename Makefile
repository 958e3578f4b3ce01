# Every target does its own set-up; it needs Python 3.11+, make and the package index, nothing else.
# Another interpreter: `make test PYTHON=python3.12`. Tests wait more than they compute,
# so there are more processes than cores: `make test JOBS=2` where memory is short.

PYTHON ?= python3
JOBS   ?= 4
VENV   := .venv
SQS    := .venv-sqs
PY     := $(VENV)/bin/python
PIP    := -m pip install --quiet --disable-pip-version-check --no-input
CODE   := $(wildcard taskq backends tests examples benchmarks)

.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help setup check test test-long demo docs bench bench-full clean

help:  ## what there is to make
	@sed -n 's/^\([a-z-]*\):.*##/make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

setup: $(VENV)/.test $(SQS)/.made  ## install everything that check and test need

check: $(VENV)/.test  ## lint, format, types, floors
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy $(CODE)
	$(PY) -m pyright
	$(VENV)/bin/lint-imports --no-logo

test: setup check  ## everything that must hold before a change lands
	$(PY) -m pytest -n $(JOBS)

test-long: setup  ## kill, fault and simulation tests at full size
	TASKQ_TEST_LONG=1 $(PY) -m pytest -n $(JOBS) -m long -o timeout=7200

demo: $(VENV)/.demo  ## a newsletter whose worker is killed in the middle: each recipient gets one mail
	$(PY) -m examples.newsletter

docs: $(VENV)/.docs  ## the documentation site, in site/
	$(PY) -m zensical build --strict --clean

bench: $(VENV)/.bench  ## the benchmarks beside the peers, in less than 15 minutes; SECTION=redis for one part
	$(PY) -m benchmarks $(SECTION)

bench-full: $(VENV)/.bench  ## the same with more rounds, larger sizes and the slow peers
	$(PY) -m benchmarks $(SECTION) --full

clean:  ## remove all that was made
	rm -rf $(VENV) $(SQS) site dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find taskq backends tests -name __pycache__ -type d -prune -exec rm -rf {} +

# One virtual environment, filled in stages so that the demo waits for no test server; each stage leaves a stamp.

OLD := taskq needs Python 3.11 or newer, and $(PYTHON) is %d.%d: try `make ... PYTHON=python3.12`
NEW := $(PYTHON) -c 'import sys; v = sys.version_info[:2]; v >= (3, 11) or sys.exit("$(OLD)" % v)'

$(VENV)/.made:
	@$(NEW)
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.made pyproject.toml requirements/run.txt requirements/demo.txt
	$(PY) $(PIP) -r requirements/demo.txt
	$(PY) $(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.test: $(VENV)/.demo requirements/test.txt
	$(PY) $(PIP) -r requirements/test.txt
	@touch $@

$(VENV)/.docs: $(VENV)/.demo requirements/docs.txt
	$(PY) $(PIP) -r requirements/docs.txt
	@touch $@

$(VENV)/.bench: $(VENV)/.test requirements/bench.txt
	$(PY) $(PIP) -r requirements/bench.txt
	@touch $@

$(SQS)/.made: requirements/sqs-emulator.txt
	@$(NEW)
	$(PYTHON) -m venv $(SQS)
	$(SQS)/bin/python $(PIP) -r requirements/sqs-emulator.txt
	@touch $@
