# Everything is installed into .venv by the targets themselves: Python 3.11 or later, pip and make are enough.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-minio torture lint format clean

demo: $(VENV)/.run  ## The main job on made-up Kafka segments and a directory store
	$(BIN)/takhin-tiered demo

test: $(VENV)/.test  ## All tests, on a real S3 server that they start themselves
	$(BIN)/pytest

test-minio: $(VENV)/.test  ## The store contract and the end-to-end tests on a real MinIO, built if there is none
	.ci/test-minio.sh $(BIN)

torture: $(VENV)/.test  ## A kill at every named point, in every state, on both kinds of store
	TAKHIN_TEST_TORTURE=full $(BIN)/pytest tests/faults -rP

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
	touch $@

$(VENV)/.test: pyproject.toml $(VENV)/.run
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) .make build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
