# Two commands: `make demo` and `make test`. Each sets up .venv first, once.
PYTHON ?= python3
BIN := .venv/bin
# Two processes of one thread each: tiny models gain nothing from more threads.
TEST := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

.PHONY: demo test test-slow test-quantization lint docs clean

demo: .venv/installed  ## align SmolLM2 with KTO on the shipped thumbs, and judge it
	$(BIN)/kto-lab train

test: .venv/installed  ## the test suite
	$(TEST)

test-slow: .venv/installed  ## the tests that take minutes, or download something
	$(TEST) -m slow

# Apart from the others: with bitsandbytes there, every process that imports peft takes a second longer to start.
test-quantization: .venv/installed  ## the tests of quantised bases, with the extra that they need
	$(BIN)/pip install --quiet -c constraints.txt -e '.[quantization]'
	$(TEST) tests/models/test_quantization.py tests/training/test_update_rule.py

lint: .venv/installed  ## formatting, lint, types, and which package may import which
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/installed  ## write losses.md, metrics.md, keys.md and sizes.md of docs/ from the code, and the site into build/site
	$(BIN)/python scripts/write_loss_docs.py
	$(BIN)/python scripts/write_metric_docs.py
	$(BIN)/python scripts/write_key_docs.py
	$(BIN)/python scripts/write_size_docs.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

clean:  ## remove the environment
	rm -rf .venv

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@
