# The targets install everything into .venv. They need Python 3.11 or later, pip and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALL := pip install --quiet --disable-pip-version-check

.PHONY: bench demo test test-kafka test-latest test-long test-minio torture matrix lint format lock clean

demo: $(VENV)/.run  ## Archive and restore sample Kafka segments, with a directory store
	$(BIN)/takhin-tiered demo

test: $(VENV)/.test .make/servers/.done  ## All but the long tests, on a real S3 server that they start themselves
	$(BIN)/pytest

test-long: $(VENV)/.test .make/servers/.done  ## The long tests, which start the program many times: commands, signals, output, dialects of S3
	$(BIN)/pytest -m long

test-minio: $(VENV)/.test .make/servers/.done  ## The store contract and the end-to-end tests on a real MinIO, which is built if there is none
	.ci/test-minio.sh $(BIN)

test-kafka: $(VENV)/.kafka .make/servers/.done  ## Tests on real Apache Kafka brokers, fetched by Maven; arguments in TEST="-k trim"
	.ci/test-kafka.sh $(BIN) $(TEST)

matrix: $(VENV)/.test .make/servers/.done  ## Every command, by every user, with the daemon and the store in every state
	TAKHIN_TEST_MATRIX=full $(BIN)/pytest -m long tests/integration/test_matrix.py

torture: $(VENV)/.test .make/servers/.done  ## Every kill, fault and interleaving, on both kinds of store: about an hour
	TAKHIN_TEST_TORTURE=full $(BIN)/pytest -m "" tests/faults --dist worksteal

bench: $(VENV)/.bench .make/peers/.done  ## Compare with s5cmd, rclone and the aws CLI; arguments in BENCH="--quick 32x32MiB"
	$(BIN)/python -m benchmarks $(BENCH)

lint: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock:  ## Refresh the constraints with the newest versions within the bounds
	.ci/lock.sh $(PYTHON)

test-latest: .make/servers/.done  ## The tests with the newest versions within the bounds; BEYOND=1: also beyond the upper bounds
	.ci/test-latest.sh $(PYTHON) $(TEST)

$(VENV)/.run: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/$(INSTALL) --constraint constraints.txt --editable .
	$(BIN)/python -m compileall -q takhin_tiered  # pip compiles only packages that are not editable
	touch $@

$(VENV)/.test: $(VENV)/.run
	$(BIN)/$(INSTALL) --constraint constraints.txt --editable '.[test]'
	touch $@

$(VENV)/.kafka: $(VENV)/.test
	$(BIN)/$(INSTALL) --constraint constraints.txt --editable '.[kafka]'
	touch $@

$(VENV)/.bench: $(VENV)/.run
	$(BIN)/$(INSTALL) --constraint constraints.txt --editable '.[bench]'
	touch $@

.make/servers/.done: tests/servers.txt tests/servers-constraints.txt
	$(PYTHON) -m venv .make/servers
	.make/servers/bin/$(INSTALL) --constraint tests/servers-constraints.txt --requirement tests/servers.txt
	touch $@

.make/peers/.done: benchmarks/peers.txt benchmarks/peers-constraints.txt
	$(PYTHON) -m venv .make/peers
	.make/peers/bin/$(INSTALL) --constraint benchmarks/peers-constraints.txt --requirement benchmarks/peers.txt
	touch $@

clean:
	rm -rf $(VENV) .make build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
