# `make` prints what there is. Everything runs from .venv, which is made on the first use.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo demo-s3 test check bench clean

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
BENCH_DIR ?= $(or $(RESRAY_BENCH_DIR),examples)

export PIP_DISABLE_PIP_VERSION_CHECK := 1

help: ## print this list
	@echo "resray: make images sharper, cleaner and larger"
	@echo
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(READY) ## enhance the photographs in examples/ into out/, and show the difference
	@rm -rf out
	@echo "== Enhancing the photographs in examples/ into out/"
	@$(BIN)/resray enhance examples out --weights sr-x2
	@cp out/_resray/report.html out/report.html
	@echo "== Measuring: each photograph halved, enlarged again, and compared with itself"
	@$(BIN)/resray evaluate examples --weights sr-x2
	@echo "== Before and after, under sliders: $(CURDIR)/out/report.html"

demo-s3: $(READY) ## the same from bucket to bucket, on an object store that runs meanwhile
	@cd benchmarks && ../$(BIN)/python -m parts.demo_s3 ../out/demo-s3

test: $(READY) ## run all tests
	@echo "== Running the tests"
	@$(BIN)/python -m pytest -n 2 --max-worker-restart 0 --dist loadfile $(PYTEST_ARGS)

check: $(READY) ## lint, formatting and types
	@echo "== Linting (ruff)"
	@$(BIN)/ruff check
	@echo "== Formatting (ruff)"
	@$(BIN)/ruff format --check
	@echo "== Types (pyright, strict)"
	@$(BIN)/pyright

bench: $(READY) ## measure quality (RESRAY_BENCH_DIR: test sets) and speed (BENCH_ARGS=--quick: soon)
	@rm -rf out/bench && mkdir -p out/bench
	@dirs=$$(find $(BENCH_DIR) -mindepth 1 -maxdepth 1 -type d '(' -name set5 -o -name set14 ')' | sort); \
	for dir in $${dirs:-$(BENCH_DIR)}; do for weights in sr-x2 sr-x4; do \
		echo "== $$weights on $$dir"; \
		$(BIN)/resray evaluate "$$dir" --weights $$weights --report out/bench/$$(basename "$$dir")-$$weights.html; \
	done; done
	@for script in benchmarks/*.py; do \
		sets=; case $$script in */peers.py) sets=$$(find $(BENCH_DIR) -mindepth 1 -maxdepth 1 -name set14);; esac; \
		command="$(BIN)/python $$script $$sets $(BENCH_ARGS)"; \
		echo "== $$command"; \
		page=out/bench/$$(basename $$script .py).txt; \
		echo "$$ $$command" > $$page; \
		$$command | tee -a $$page; \
	done
	@cd benchmarks && ../$(BIN)/python -m parts.page ../out/bench

clean: ## remove what was made, but not .venv
	@rm -rf out build dist ./*.egg-info .pytest_cache .ruff_cache .hypothesis
	@find benchmarks cluster pipelines resnet_core tests -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# A second run finds the stamp newer than pyproject.toml and installs nothing.
$(READY): pyproject.toml
	@in_range='import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'; python=; \
	for candidate in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
		if "$$candidate" -c "$$in_range" >/dev/null 2>&1; then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "resray needs Python 3.11, 3.12 or 3.13, and found $$(python3 --version 2>/dev/null || echo none). Install one, or name it: make $(or $(MAKECMDGOALS),demo) PYTHON=/path/to/python3.12" >&2; exit 1; \
	fi; \
	if ! "$$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then \
		echo "$$python can't make a virtual environment: sudo apt install python$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv" >&2; exit 1; \
	fi; \
	echo "== Making $(VENV) with $$("$$python" --version)"; \
	"$$python" -m venv $(VENV)
	@echo "== Installing resray with PyTorch and Ray into $(VENV) (several GB, minutes; only the first time)"
	@$(BIN)/python -m pip install --editable '.[dev]'
	@touch $@
