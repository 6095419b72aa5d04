# Two commands do everything on a machine with Python 3.11: `make demo` and `make test`.
PYTHON ?= python3
PYTHON313 ?= python3.13
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo dev rehearsal functions-host test test-all tools lint types imports check lint-deploy replay check-deploy docs lock clean help

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

rehearsal: $(BIN)/geoworker  ## Orchestrator and worker as two processes on one embedded PostgreSQL (http_trigger)
	$(BIN)/geoworker rehearse $(ARGS)

functions-host: .venv-functions/ready  ## The packaged Function App under Microsoft's worker library (needs Python 3.13)
	.venv-functions/bin/python -m pytest tests/functions_host $(ARGS)

.venv-functions/ready: pyproject.toml
	$(PYTHON313) -m venv .venv-functions
	.venv-functions/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]" \
	  "azure-functions-runtime>=1.1,<2"
	@touch $@

test: $(BIN)/geoworker  ## The default test suite, in a few processes: much of it waits
	$(BIN)/python -m pytest -m "not slow" -n 3 --dist loadfile $(ARGS)

test-all: $(BIN)/geoworker  ## Every test, the slow ones too
	$(BIN)/python -m pytest $(ARGS)

tools: tests/tools/node_modules/.package-lock.json  ## Servers that tests start: Azurite, a Blob Storage (needs npm)

tests/tools/node_modules/.package-lock.json: tests/tools/package-lock.json
	cd tests/tools && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

lint: $(BIN)/geoworker  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(BIN)/geoworker  ## mypy --strict
	$(BIN)/mypy

imports: $(BIN)/geoworker  ## The layer contracts
	$(BIN)/lint-imports

check: lint types imports test  ## What CI runs

lint-deploy: $(BIN)/geoworker  ## hadolint, actionlint, shellcheck, the compose specification's schema
	$(BIN)/hadolint deploy/worker/Dockerfile
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/actionlint deploy/github/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows deploy/github/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml
	$(BIN)/shellcheck .ci/run

replay: $(BIN)/geoworker  ## Do the image's steps in a throwaway root, and run what comes out (needs root)
	$(BIN)/python deploy/worker/replay

check-deploy: lint-deploy  ## Everything under deploy/ that can be checked without an engine and without Azure
	$(BIN)/python -m pytest tests/deploy
	$(MAKE) replay

docs: $(BIN)/geoworker  ## The pages made from the code
	$(BIN)/geoworker config docs --output docs/configuration.md
	$(BIN)/python -m app.cli_page > docs/command-line.md

lock:  ## Pin every dependency with its hashes (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --output-file requirements/runtime.lock pyproject.toml
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --extra dev --output-file requirements/dev.lock pyproject.toml requirements/build.in
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --constraint requirements/runtime.lock --output-file requirements/azure-monitor.lock requirements/azure-monitor.in
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --constraint requirements/dev.lock --output-file requirements/build.lock requirements/build.in
	uv run --quiet --no-project --with packaging python deploy/function_app/package.py requirements

clean:  ## Remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
