# Both first commands of the README live here; each sets up everything it needs in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-hosts test-containers gpu bench docs lint clean

demo: $(VENV)/.installed
	$(BIN)/python -m bertjobs demo

test: $(VENV)/.installed-dev lint
	$(BIN)/python -m pytest -n 3 -m "not hosts and not containers"

# Several hosts in network namespaces of this machine, for which it takes root; mostly waiting, some 8 minutes.
test-hosts: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m hosts

# Both images and the cluster of docker/compose.yaml. Without a container engine: what to install, and exit status 3.
test-containers: $(VENV)/.installed-dev
	$(BIN)/python tests/containers/engine.py
	$(BIN)/python -m pytest -m containers

# On a machine with CUDA: torch, transformers and the small dependencies of pyproject.toml, but no Ray.
gpu:
	$(PYTHON) tests/gpu/run_all.py --output gpu.json

bench: $(VENV)/.installed-bench
	$(BIN)/python tests/benchmarks/run_all.py

# Write docs/reference anew from the code.
docs: $(VENV)/.installed-dev
	$(BIN)/python docs/generate_reference.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check bertjobs docs tests
	$(BIN)/ruff format --check bertjobs docs tests
	$(BIN)/mypy
	$(BIN)/lint-imports

# torch comes first and by its exact version: a range would admit CUDA builds of several gigabytes on a
# machine without a GPU. With a torch of your own already in .venv, constraints.txt is all you change.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) -e '.[dev]'
	touch $@

$(VENV)/.installed-bench: $(VENV)/.installed-dev
	$(PIP) -e '.[bench]'
	touch $@

clean:
	rm -rf $(VENV) demo
