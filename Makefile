# The targets install everything into .venv. They need Python 3.11 or later, pip and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALL := pip install --quiet --disable-pip-version-check

.PHONY: bench configuration deb demo dynamodb test test-browser test-kafka test-latest test-long test-minio torture trial matrix lint format lock clean

demo: $(VENV)/.run  ## Archive and restore sample Kafka segments, with a directory store
	$(BIN)/takhin-tiered demo

S3_PORT ?= 4566

trial: $(VENV)/.run .make/servers/.done  ## The daemon, an S3 server and sample segments in trial/, until Ctrl-C. S3_PORT=4566
	.ci/trial.sh $(BIN) .make/servers/bin $(S3_PORT)

DYNAMODB_PORT ?= 4566

dynamodb: .make/servers/.done  ## DynamoDB and S3 on this machine, until Ctrl-C; nothing is kept. DYNAMODB_PORT=4566
	@echo "storage.tiered.fleet.endpoint: http://127.0.0.1:$(DYNAMODB_PORT)"
	@echo "Credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY may be anything"
	BIND_HOST=127.0.0.1 GATEWAY_PORT=$(DYNAMODB_PORT) .make/servers/bin/ministack

test: $(VENV)/.test .make/servers/.done  ## All but the long tests, on a real S3 server that they start themselves
	$(BIN)/pytest -n 4 --dist worksteal

test-long: $(VENV)/.test .make/servers/.done .make/peers/.done  ## The long tests, which start the program many times: commands, signals, output, dialects of S3, the commands of the pages
	$(BIN)/pytest -m long

test-minio: $(VENV)/.test .make/servers/.done  ## The store contract and the end-to-end tests on a real MinIO, which is built if there is none
	.ci/test-minio.sh $(BIN)

test-kafka: $(VENV)/.kafka .make/servers/.done  ## Tests on real Apache Kafka brokers, fetched by Maven; arguments in TEST="-k trim"
	.ci/test-kafka.sh $(BIN) $(TEST)

test-browser: $(VENV)/.browser .make/servers/.done  ## The dashboard in Chromium, with axe; arguments in TEST="-k login"
	.ci/test-browser.sh $(BIN) $(TEST)

matrix: $(VENV)/.test .make/servers/.done  ## Every command, by every user, with the daemon and the store in every state
	TAKHIN_TEST_MATRIX=full $(BIN)/pytest -m long tests/integration/test_matrix.py

torture: $(VENV)/.test .make/servers/.done  ## Every kill, fault and interleaving, on both kinds of store: about an hour
	TAKHIN_TEST_TORTURE=full $(BIN)/pytest -m "" tests/faults --dist worksteal

bench: $(VENV)/.bench .make/peers/.done  ## Compare with s5cmd, rclone and the aws CLI; arguments in BENCH="--quick 32x32MiB"
	$(BIN)/python -m benchmarks $(BENCH)

deb:  ## A Debian package in dist/, for the release and the Python of this machine
	.ci/build-deb.sh

lint: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.test configuration
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

configuration: $(VENV)/.run  ## The reference of settings in docs/configuration.md, and the copies that a package or a chart needs
	$(BIN)/python -m takhin_tiered.config_reference docs/configuration.md
	cp takhin_tiered/fleet/fleet-contract.json configs/fleet-contract.json
	cp configs/alerts.yml configs/helm/takhin-tiered/alerts.yml

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

$(VENV)/.browser: $(VENV)/.test
	$(BIN)/$(INSTALL) --constraint constraints.txt --editable '.[browser]'
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
	rm -rf $(VENV) .make trial build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
