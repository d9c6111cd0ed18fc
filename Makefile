# Everything is installed into .venv by the targets themselves: Python 3.11 or later, pip and make are enough.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: bench demo test test-kafka test-long test-minio torture matrix lint format clean

demo: $(VENV)/.run  ## The main job on made-up Kafka segments and a directory store
	$(BIN)/takhin-tiered demo

test: $(VENV)/.test  ## All tests, on a real S3 server that they start themselves
	$(BIN)/pytest

test-long: $(VENV)/.test  ## Those that start the program many times: commands, signals, output, dialects of S3
	$(BIN)/pytest -m long

test-minio: $(VENV)/.test  ## The store contract and the end-to-end tests on a real MinIO, built if there is none
	.ci/test-minio.sh $(BIN)

test-kafka: $(VENV)/.kafka  ## Beside real Apache Kafka brokers, fetched by Maven; arguments in TEST="-k trim"
	.ci/test-kafka.sh $(BIN) $(TEST)

matrix: $(VENV)/.test  ## Every command, by every user, with the daemon and the store in every state
	TAKHIN_TEST_MATRIX=full $(BIN)/pytest -m long tests/integration/test_matrix.py

torture: $(VENV)/.test  ## Every kill, fault and interleaving, on both kinds of store: about an hour
	TAKHIN_TEST_TORTURE=full $(BIN)/pytest -m "" tests/faults --dist worksteal

bench: $(VENV)/.bench .make/peers/.done  ## Race s5cmd, rclone and the aws CLI; arguments in BENCH="--quick 32x32MiB"
	$(BIN)/python -m benchmarks $(BENCH)

lint: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.run: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	$(BIN)/python -m compileall -q takhin_tiered  # as pip does with what is not editable
	touch $@

$(VENV)/.test: pyproject.toml $(VENV)/.run
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

$(VENV)/.kafka: pyproject.toml $(VENV)/.test
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[kafka]'
	touch $@

$(VENV)/.bench: pyproject.toml $(VENV)/.run
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[bench]'
	touch $@

.make/peers/.done: benchmarks/peers.txt
	$(PYTHON) -m venv .make/peers
	.make/peers/bin/pip install --quiet --disable-pip-version-check --requirement benchmarks/peers.txt
	touch $@

clean:
	rm -rf $(VENV) .make build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
