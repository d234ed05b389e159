# Everything runs in .venv, which is made and brought up to date by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# The cells of a notebook share a kernel: loadfile keeps them together, and in order.
TEST_NOTEBOOKS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile \
	--nbval-lax --nbval-current-env notebooks

.DEFAULT_GOAL := help
.PHONY: help train test lint lab notebooks bench clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

train: $(STAMP)  ## render data, train on the shipped coarse network, evaluate (FROM_SCRATCH=1: the long road)
	$(BIN)/dne train --preset tiny $(if $(FROM_SCRATCH),--from-scratch) $(ARGS)

test: lint  ## lint, all tests with coverage, all notebooks (ARGS=tests/FILE: that one alone)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal $(or $(ARGS),--cov)
	$(if $(ARGS),,$(TEST_NOTEBOOKS))

lint: $(STAMP)  ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

lab: $(STAMP)  ## open the notebooks
	$(BIN)/jupyter lab $(wildcard notebooks)

notebooks: $(STAMP)  ## run the notebooks and keep their outputs
	OMP_NUM_THREADS=2 $(BIN)/python scripts/run_notebooks.py $(ARGS)

bench: $(STAMP)  ## run the benchmarks
	@for file in $(wildcard benchmarks/*.py); do echo "$$file"; $(BIN)/python "$$file" || exit 1; done

clean:  ## remove .venv and caches; data, runs and predictions stay
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis .coverage
	find dne_lib tests scripts -name __pycache__ -prune -exec rm -rf {} +

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is older than 3.11: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade --quiet pip
	$(BIN)/python -m pip install --quiet -e '.[notebooks,dev]'
	@touch $@
