# The verbs of the house. CI runs these same targets (.ci/run).
.PHONY: setup check test demo bench plans faults fuzz lock clean
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

setup: $(STAMP) ## a virtual environment with exactly what requirements.lock says, and what the system lacks
	@sh deploy/setup-system.sh

$(STAMP): requirements.lock pyproject.toml
	@echo "setup: making .venv and installing requirements.lock into it"
	@$(PYTHON) -c 'import sys, venv; assert sys.version_info >= (3, 11), "factoryd needs Python 3.11 or newer"' || \
	  { echo "setup: install python3 (3.11 or newer) and python3-venv first"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(STAMP)

check: $(STAMP) ## style, types, layers: less than a minute
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

test: setup ## everything on real servers, with a few kill rounds
	@$(BIN)/python -m pytest -q -m "not long"

demo: setup ## a broker, a database, the daemon and a simulated factory; Ctrl-C ends it
	@$(BIN)/factoryd demo

bench: setup ## throughput and latency beside a yardstick of the same run
	@$(BIN)/python -m bench

plans: setup ## plans and times of the fast reads on ten million readings: about six minutes, 7 GB in /tmp
	@$(BIN)/python -m pytest -q -s -m long tests/plans

faults: setup ## 50 rounds of kill -9 under load; a ledger kept by the publishers judges; a total loss, back from S3 alone
	@$(BIN)/python -m pytest -q -s -m long tests/faults tests/integration

fuzz: setup ## ten minutes of hostile bytes at the decoder and the protocol
	@$(BIN)/python -m pytest -q -s -m long tests/fuzz

lock: $(STAMP) ## renew requirements.lock from pyproject.toml
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --all-extras --upgrade \
	  --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" -o requirements.lock pyproject.toml

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build *.egg-info
