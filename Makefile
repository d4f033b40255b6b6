# Two commands do everything on a fresh machine: `make demo` and `make test`.

PYTHON ?= python3
SCALE ?= 2
IMAGE ?= docs/pictures/nuthatch_$(if $(filter 3,$(SCALE)),720p,1080p).jpg

VENV := .venv
BIN := $(VENV)/bin
EXTRAS_demo := server
GPU ?=
EXTRAS_dev ?= train,rtx,heif,live,server,loadtest
# Two workers, each of which runs whole files: tests of one file share their servers.
PYTEST := $(BIN)/pytest --numprocesses 2 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo check client test test-all coverage lint unit docs export bench clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.$(if $(GPU),gpu,demo) ## Start a real tritonserver, turn a photograph into 4K: IMAGE=my.jpg SCALE=3 GPU=1
	@mkdir -p build && name="$$(basename "$(IMAGE)")" && \
	  printf 'demo/%s\n' before_after.png "$${name%.*}_x$(SCALE).png" >> build/demo.txt
	@$(BIN)/rt4ksr demo "$(IMAGE)" --scale $(SCALE) --output demo --overwrite

check: ## Lint, types and the tests that need no server
	@$(MAKE) --no-print-directory --jobs 2 lint unit

client: $(VENV)/.client ## The tests of the client alone, with its base dependencies (also on Python 3.13)
	$(PYTEST) --client tests/unit

test: lint ## Lint, types, and the tests, with a real tritonserver
	$(PYTEST)

test-all: lint ## The same with the slow tests and all broken inputs, as before a release
	$(PYTEST) --slow

coverage: $(VENV)/.dev ## Run the tests and report which lines they reach, subprocesses included
	$(PYTEST) --cov --cov-report=term

lint: $(VENV)/.dev ## Lint and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

unit: $(VENV)/.dev
	$(PYTEST) tests/unit

docs: $(VENV)/.dev ## Build the documentation into build/site/; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

export: $(VENV)/.dev ## Make model_repository/ again from the shipped weights
	$(BIN)/rt4ksr export --output model_repository --overwrite

bench: $(VENV)/.dev ## Measure this export and its serving against their peers
	$(BIN)/pip install --quiet --group bench
	$(BIN)/python benchmarks/graph_forms.py
	$(BIN)/python benchmarks/cpu_configs.py
	$(BIN)/python benchmarks/client_stages.py
	$(BIN)/python benchmarks/png_writers.py
	$(BIN)/python benchmarks/folder.py
	$(BIN)/python benchmarks/client_transport.py
	$(BIN)/python benchmarks/image_endpoint.py
	$(BIN)/python benchmarks/server_memory.py
	$(BIN)/python benchmarks/loadtest_peer.py
	$(BIN)/python benchmarks/video_path.py
	$(BIN)/python benchmarks/video_still.py

clean: ## Remove what make installed and wrote
	@if [ -f build/demo.txt ]; then xargs -d '\n' rm -f -- < build/demo.txt; fi
	@if [ -d demo ]; then rmdir --ignore-fail-on-non-empty demo; fi
	rm -rf $(VENV) build

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	@echo "Installing into $(VENV) (once) ..."
	$(BIN)/pip install --quiet --editable '.[$(EXTRAS_demo)]'
	@touch $@

$(VENV)/.gpu: pyproject.toml | $(VENV)/bin/python
	@echo "Installing into $(VENV) (once, 2 GB with NVIDIA's libraries) ..."
	@# The two install the same files: neither may be left when the other is installed.
	$(BIN)/pip uninstall --quiet --yes onnxruntime onnxruntime-gpu
	$(BIN)/pip install --quiet --editable '.[gpu]'
	@touch $@ $(VENV)/.demo

$(VENV)/.client: pyproject.toml | $(VENV)/bin/python
	@echo "Installing into $(VENV) (once) ..."
	$(BIN)/pip install --quiet --editable . --group test
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	@echo "Installing into $(VENV) (once) ..."
	$(BIN)/pip install --quiet --editable '.[$(EXTRAS_dev)]' --group dev
	@touch $@ $(VENV)/.demo
