# The front door: `make serve` and `make test`. Everything else is listed by `make help`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# grpc-js as a client, where node is: without it those tests are skipped.
GRPC_JS := $(if $(shell command -v npm),tests/grpc_js/node_modules)

.DEFAULT_GOAL := help
.PHONY: help serve test test-slow perf-analyzer lint type contracts proto clean

help:  ## list these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

serve: $(VENV)/.server  ## install the server (no torch) and serve the shipped models
	@echo
	@echo "In another terminal:  $(BIN)/convscope classify samples/*.jpg"
	@echo
	@$(BIN)/convscope serve $(ARGS)

test: $(VENV)/.dev $(GRPC_JS) lint type contracts  ## install everything the tests need, then run them all
	$(BIN)/python -m pytest -m "not slow and not gpu" $(ARGS)

test-slow: $(VENV)/.dev  ## the tests that take minutes or a tool (the Docker image: see tests/docker)
	$(BIN)/python -m pytest -m "slow" $(ARGS)

perf-analyzer: $(VENV)/.perf_analyzer  ## Triton's load generator, for its tests (Linux on x86-64)

# The last wheel of tritonclient that holds it, and the library of CUDA that it is linked with.
$(VENV)/.perf_analyzer: $(BIN)/python
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/perf_analyzer \
	  tritonclient==2.50.0 nvidia-cuda-runtime-cu12==12.9.79
	rm -rf $(VENV)/perf_analyzer/triton*
	@touch $@

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(VENV)/.dev
	$(BIN)/mypy

contracts: $(VENV)/.dev
	$(BIN)/lint-imports

# The last lines: protoc derives imports from file names, and these two may not
# name their package (see proto/inference/grpc_service.proto).
proto: $(VENV)/.dev  ## regenerate the committed wire code from proto/
	cd proto && PATH="$(CURDIR)/$(BIN):$$PATH" python -m grpc_tools.protoc \
	  -Iconvscope_proto/v1=convscope/v1 \
	  --python_out=. --mypy_out=. --grpc_python_out=. --mypy_grpc_out=. \
	  convscope_proto/v1/classifier.proto
	cd proto && PATH="$(CURDIR)/$(BIN):$$PATH" python -m grpc_tools.protoc \
	  -Iinference --python_out=convscope_proto/inference --mypy_out=convscope_proto/inference \
	  grpc_service.proto model_config.proto
	sed -i.bak 's/^import model_config_pb2/from convscope_proto.inference import model_config_pb2/' \
	  proto/convscope_proto/inference/grpc_service_pb2.py*
	rm proto/convscope_proto/inference/*.bak

tests/grpc_js/node_modules: tests/grpc_js/package-lock.json
	npm ci --silent --ignore-scripts --no-audit --no-fund --prefix tests/grpc_js || \
	  echo "grpc-js did not come: its tests will be skipped"

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) tests/grpc_js/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "convscope needs Python >= 3.11, got %d.%d: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"

$(VENV)/.server: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[server]"
	@touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[server,export]" --group dev
	@touch $@ $(VENV)/.server
