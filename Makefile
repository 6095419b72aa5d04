# Two commands do everything on a machine with Python 3.11: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo dev test test-all lint types imports check docs lock clean help

help:  ## What there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(BIN)/geoworker: requirements/dev.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(BIN)/geoworker  ## A real raster becomes a COG with a STAC item, on an embedded PostgreSQL
	$(BIN)/geoworker demo $(ARGS)

dev: $(BIN)/geoworker  ## Serve everything in one process on http://127.0.0.1:8080
	$(BIN)/geoworker dev $(ARGS)

test: $(BIN)/geoworker  ## The default test suite
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

test-all: $(BIN)/geoworker  ## Every test, the slow ones too
	$(BIN)/python -m pytest $(ARGS)

lint: $(BIN)/geoworker  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(BIN)/geoworker  ## mypy --strict
	$(BIN)/mypy

imports: $(BIN)/geoworker  ## The layer contracts
	$(BIN)/lint-imports

check: lint types imports test  ## What CI runs

docs: $(BIN)/geoworker  ## The pages made from the code
	$(BIN)/geoworker config docs --output docs/configuration.md
	$(BIN)/python -m app.cli_page > docs/command-line.md

lock:  ## Pin every dependency with its hashes (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --output-file requirements/runtime.lock pyproject.toml
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --extra dev --output-file requirements/dev.lock pyproject.toml requirements/build.in

clean:  ## Remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
