# The friendly face of the package; every target sets up .venv by itself, once, and again when the lock changes.
PROFILE ?= demo
PYTHON ?= python3
BIN := .venv/bin
PY := $(BIN)/python
STAMP := .venv/.installed
# RUN_DIR, DATA_DIR and WEIGHTS are paths; ARGS goes to the runner as it is, such as ARGS="-p epochs 3 --only 03"
RUN = $(PY) -m covidxr run $(PROFILE) $(if $(RUN_DIR),--run-dir "$(RUN_DIR)") $(if $(DATA_DIR),--data-dir "$(DATA_DIR)") \
      $(if $(WEIGHTS),-p weights "$(WEIGHTS)") $(ARGS)

.PHONY: help setup data run-all compare test test-live lint notebook docs bench lock clean clean-runs
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo '  variables: PROFILE=demo|clean|article|mitigated|ablation|own  DATA_DIR=folder  WEIGHTS=file  RUN_DIR=folder  ARGS="-p name value"'

setup: $(STAMP)  ## make .venv from requirements.lock

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "covidxr needs Python 3.10 to 3.13; name one with PYTHON=python3.12" >&2; exit 1; }
	@echo "Setting up .venv; this downloads about 1 GB once, 3.3 GB on disk."
	@$(PYTHON) -m venv --clear .venv
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

run-all: $(STAMP)  ## run all notebooks of PROFILE, headless, into runs/PROFILE
	@$(RUN)

compare: $(STAMP)  ## put finished runs side by side, as a page and a table: make compare RUNS="a b"
	@$(PY) -m covidxr compare $(RUNS)

data: $(STAMP)  ## fetch the images that PROFILE needs into DATA_DIR (default: data)
	@$(PY) -m covidxr data $(PROFILE) $(if $(DATA_DIR),--data-dir "$(DATA_DIR)") $(if $(MIRROR),--mirror "$(MIRROR)") $(ARGS)

lint: $(STAMP)  ## style of code and notebooks, and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || { echo 'not formatted; run $(BIN)/ruff format .'; exit 1; }
	@$(BIN)/nbstripout --verify notebooks/*.ipynb
	@$(BIN)/mypy covidxr

# The walk, the longest file, comes first, so that neither worker waits for the other at the end.
test: lint  ## lint, unit and notebook tests, and a small run of all notebooks
	@MPLBACKEND=agg $(BIN)/pytest tests/test_walk.py tests covidxr --doctest-modules -n 2 --dist loadfile --no-loadscope-reorder

test-live: $(STAMP)  ## notebook 02 in Jupyter Lab, driven by Chromium; wants a machine that is not busy
	@$(BIN)/pytest tests/live.py

notebook: $(STAMP)  ## open the notebooks in Jupyter Lab
	@$(BIN)/jupyter lab notebooks

docs: $(STAMP)  ## the API reference, from the docstrings, into build/docs
	@$(PY) -W ignore -m pdoc --docformat numpy --no-show-source -o build/docs covidxr '!covidxr[.]_' '!covidxr[.].*[.]_'
	@echo "open build/docs/index.html"

bench: $(STAMP)  ## the benchmarks, one after the other
	@for script in tests/benchmarks/bench_*.py; do echo "== $$script"; $(PY) $$script || exit 1; done

lock: $(STAMP)  ## resolve pyproject.toml anew into requirements.lock (needs uv)
	@uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-emit-index-url --extra dev \
		--custom-compile-command "make lock" -o requirements.lock pyproject.toml

clean-runs:  ## remove runs/, all that was computed
	@rm -rf runs

clean:  ## remove .venv and caches; runs/ stays
	@rm -rf .venv .pytest_cache .ruff_cache .hypothesis build *.egg-info
