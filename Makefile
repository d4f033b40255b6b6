# Two commands do everything on a fresh machine: `make demo` and `make test`.

PYTHON ?= python3
SCALE ?= 2
IMAGE ?= docs/pictures/nuthatch_$(if $(filter 3,$(SCALE)),720p,1080p).jpg

VENV := .venv
BIN := $(VENV)/bin
EXTRAS_demo := server
EXTRAS_dev := train,rtx,video,server,loadtest

.DEFAULT_GOAL := help
.PHONY: help demo test lint export bench clean

help: ## Show what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## Start a real tritonserver, turn a photograph into 4K: IMAGE=my.jpg SCALE=3
	@$(BIN)/rt4ksr demo "$(IMAGE)" --scale $(SCALE) --output demo

test: lint ## Lint, types, and every test, those with a real tritonserver included
	$(BIN)/pytest --cov --cov-report=term

lint: $(VENV)/.dev ## Lint and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

export: $(VENV)/.dev ## Make model_repository/ again from the shipped weights
	$(BIN)/rt4ksr export --output model_repository

bench: $(VENV)/.dev ## Measure this export and its serving against their peers
	$(BIN)/pip install --quiet --group bench
	$(BIN)/python benchmarks/graph_forms.py
	$(BIN)/python benchmarks/cpu_configs.py
	$(BIN)/python benchmarks/client_stages.py
	$(BIN)/python benchmarks/client_transport.py
	$(BIN)/python benchmarks/image_endpoint.py
	$(BIN)/python benchmarks/loadtest_peer.py

clean: ## Remove what make installed and wrote
	rm -rf $(VENV) demo

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	@echo "Installing into $(VENV) (once) ..."
	$(BIN)/pip install --quiet --editable '.[$(EXTRAS_demo)]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	@echo "Installing into $(VENV) (once) ..."
	$(BIN)/pip install --quiet --editable '.[$(EXTRAS_dev)]' --group dev
	@touch $@ $(VENV)/.demo
