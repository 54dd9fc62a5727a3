# The commands of a checkout. `make` alone lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup test lint format demo bench clean

# `make test`: what is collected, and how many processes share it, e.g. make test ARGS="tests/unit -k store" JOBS=0
# `make bench`: RUNS=folder of the records, ARGS=further overrides
ARGS ?=
JOBS ?= 2
RUNS ?= runs
MARKS ?= not gpu and not network and not slow

PY := .venv/bin/python

help: ## list the commands
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: ## make .venv from pyproject.toml and constraints.txt (PYTHON=... names the interpreter)
	@.ci/setup

test: setup ## run the test suite (ARGS=..., JOBS=..., MARKS=...)
	@echo "test: running the test suite"
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(PY) -m pytest -n $(JOBS) -m '$(MARKS)' $(ARGS)

lint: setup ## ruff, formatting, spelling, types
	@echo "lint: ruff check"; $(PY) -m ruff check --quiet --output-format concise .
	@echo "lint: ruff format"; $(PY) -m ruff format --quiet --check --output-format concise .
	@echo "lint: codespell"; .venv/bin/codespell
	@echo "lint: mypy --strict"; $(PY) -m mypy

format: setup ## sort imports and format
	@$(PY) -m ruff check --quiet --select I --fix . && $(PY) -m ruff format .

demo: setup ## animate drawn people with four strategies, score and compare them (two to three minutes)
	@.ci/demo

bench: ## time LightningCP against the unaccelerated model, interleaved (full size on a GPU, tiny on a CPU)
	@RUNS="$(RUNS)" ARGS="$(ARGS)" .ci/bench

clean: ## remove caches and the demo's output; runs, weights and .venv stay
	@rm -rf demo .mypy_cache .pytest_cache .ruff_cache .hypothesis build
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
