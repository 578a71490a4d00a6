# The words of this project, for people, hooks and CI alike.
#   make run [DATA=PATH] [CATALOGUE=PATH] [SET="train.epochs=3 seed=1"]   the whole loop once
#   make test                                            lint, types, import contracts, the tests of every day
#   make coverage                                        all tests, and which lines none of them reaches
#   make test-deployment                                 the parts of docker/compose.yaml as processes (PostgreSQL, Redis)
#   make mutants [ONLY="name name"]                      tests/mutants.toml: guards changed, tests turn red
#   make house                                           the size and language of the code, in figures
#   make up / make down                                  keep the servers running / stop them
# Other Python:      make run PYTHON=python3.12
# Other indexes:     make run PIP_ARGS="--extra-index-url URL"
# GPU search:        make run EXTRA=gpu
# More cores:        make test JOBS=8
PYTHON ?= python3.11
EXTRA ?= cpu
VENV ?= .venv
DATA ?=
CATALOGUE ?=
SET ?=
JOBS ?= 3
ONLY ?=
PIP_ARGS ?=
BIN := $(VENV)/bin
CONSTRAINTS := requirements/constraints.txt
# Tests that share servers stay in one process (tests/conftest.py says which share what), in their order, since the longest come early.
# Three processes on two cores: one waits for servers most of the time.
XDIST := -n $(JOBS) --dist loadfile --no-loadscope-reorder
SKUMATCH := $(BIN)/python -m skumatch

.PHONY: env run up down test lint types contracts site wheel tests coverage test-deployment prove mutants
.PHONY: docs-reference format hooks lock clean house

run: env
	@$(SKUMATCH) run $(if $(DATA),--data "$(DATA)") $(if $(CATALOGUE),--catalogue "$(CATALOGUE)") $(foreach one,$(SET),--set $(one))

up: env
	@$(SKUMATCH) up

down:
	@test ! -x $(BIN)/python || $(SKUMATCH) down

env: $(VENV)/.installed

# Compiled bytecode halves the start of every stage, whatever the shell says about writing it.
$(VENV)/.installed: $(CONSTRAINTS) pyproject.toml
	@echo "Making the environment in $(VENV) from $(CONSTRAINTS), once; this takes some minutes."
	@$(PYTHON) -m venv $(VENV)
	@torch=$$($(BIN)/python scripts/torch-source $(EXTRA) $(PIP_ARGS)) && \
		env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) \
		$$torch -c $(CONSTRAINTS) -e '.[$(EXTRA),airflow,dev]'
	@touch $@

$(VENV)/.deployment: $(VENV)/.installed
	@torch=$$($(BIN)/python scripts/torch-source $(EXTRA) $(PIP_ARGS)) && \
		env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) \
		$$torch -c $(CONSTRAINTS) -e '.[$(EXTRA),airflow,dev,deployment,s3,tracking]'
	@touch $@

test: lint types contracts site tests

site: env
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "The documentation is in .skumatch/site/index.html."

wheel: env
	@$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@ls dist/*.whl

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: env
	$(BIN)/mypy

contracts: env
	$(BIN)/lint-imports --no-logo

tests: env
	$(BIN)/python -m pytest $(XDIST) --ignore=tests/deployment $(PYTEST_ARGS)

# Every process of a test is traced, stages and servers too, so it takes longer.
coverage: env
	$(BIN)/python -m pytest $(XDIST) --ignore=tests/deployment --cov --cov-report=term $(PYTEST_ARGS)

# The servers of docker/compose.yaml as processes on loopback: PostgreSQL, Redis, Celery workers. `make prove` pulls parts out.
test-deployment: $(VENV)/.deployment
	$(BIN)/python -m pytest tests/deployment tests/doctor/test_queues.py tests/test_docker.py $(PYTEST_ARGS)

# The counts that take too long for every day.
prove: $(VENV)/.deployment
	HYPOTHESIS_PROFILE=prove $(BIN)/python -m pytest $(XDIST) $(PYTEST_ARGS)

# In copies of the project's files, JOBS at a time; the project itself is never changed.
mutants: env
	@JOBS=$(JOBS) $(BIN)/python -m tests.mutants $(ONLY)

house: env
	@$(BIN)/python -m tests.house

# Those pages of docs/reference that the code holds.
docs-reference: env
	@$(BIN)/python docs/reference/generate.py

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

hooks: env
	$(BIN)/pre-commit install

lock:
	scripts/lock

clean: down
	rm -rf .skumatch out log data data.dvc dvc.lock inputs
