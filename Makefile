# make demo      a virtual environment, a model trained in two minutes, and its answer to one question
# make test      the whole test suite, in WORKERS=2 processes
# make benchmarks  everything that is measured on processors, into benchmarks/RESULTS.md; wants a quiet machine
# make format lint types
PYTHON ?= python3.11
WORKERS ?= 2
BIN := .venv/bin

.PHONY: demo test benchmarks format lint types clean

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

demo: .venv/installed
	$(BIN)/python train.py hydra.run.dir=outputs/demo resume=none
	$(BIN)/python infer.py run=outputs/demo instruction='Provide three words for someone careful with money: one flattering, one neutral, one unkind.'

test: .venv/installed
	$(BIN)/python -m pytest -n $(WORKERS)

benchmarks: .venv/installed
	$(BIN)/python benchmarks/all.py

format: .venv/installed
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format .

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/mypy

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
