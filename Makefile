# Two commands: `make demo` and `make test`. Each sets up .venv first, once.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all lint clean

demo: .venv/installed  ## align SmolLM2 with KTO on the shipped thumbs, and judge it
	$(BIN)/kto-lab train

test: .venv/installed  ## the test suite
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest

test-all: .venv/installed  ## and the tests that take minutes
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m "slow or not slow"

lint: .venv/installed  ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:  ## remove the environment
	rm -rf .venv

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@
