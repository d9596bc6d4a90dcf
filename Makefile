# `make demo` and `make test` do all the set-up on a machine with Python 3.10+ and nothing else.
PYTHON ?= python3
VENV ?= .venv
# The torch to install. On a machine with an NVIDIA GPU: what pip finds, which has CUDA. On one without: 2.13.0, of
# which a CPU build is taken where pip knows one. Any requirement will do: make demo TORCH=torch==2.11.0
# TORCH_INDEX: another index to take torch from, such as https://download.pytorch.org/whl/cpu
TORCH ?= $(if $(wildcard /proc/driver/nvidia/version),torch>=2.9,torch==2.13.0)
BIN := $(VENV)/bin
# Another torch is another installation.
INSTALLED := $(VENV)/.installed-$(shell printf %s '$(TORCH)$(TORCH_INDEX)' | tr -c 'A-Za-z0-9.' _)
WITH_EXTRAS := $(INSTALLED)-extras

# Faults of all kinds, the slow ones too, and the table of what came of them.
FAULT_TABLE ?= docs/faults.md

.PHONY: demo test test-slurm test-long test-all faults check bench schema clean

demo: $(INSTALLED)
	$(BIN)/launcher run recipes/digits/recipe.yaml launch.nproc_per_node=2 launch.device=cpu

test: $(WITH_EXTRAS)
	$(BIN)/python -m pytest -m "not long"

# On a real Slurm, which root installs from Debian's packages where it is not there.
test-slurm: $(WITH_EXTRAS)
	$(BIN)/python -m pytest -m long tests/slurm

test-long: $(WITH_EXTRAS)
	$(BIN)/python -m pytest -m long

test-all: $(WITH_EXTRAS)
	$(BIN)/python -m pytest

faults: $(WITH_EXTRAS)
	rm -f $(FAULT_TABLE:.md=.json)
	$(BIN)/python -m pytest -m fault --fault-table=$(FAULT_TABLE)

check: $(WITH_EXTRAS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(WITH_EXTRAS)
	$(BIN)/python -m benchmarks.overhead --write
	$(BIN)/python -m benchmarks.editions --write
	$(BIN)/python -m benchmarks.checkpoints --write
	$(BIN)/python -m benchmarks.allocator --write
	$(BIN)/python -m benchmarks.network --write  # only root can make its hosts

schema: $(INSTALLED)
	$(BIN)/python -m launcher schema > recipes/recipe.schema.json

# torch comes first and alone, so that nothing later asks for another one.
$(INSTALLED): pyproject.toml
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)" $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

# What the tests need besides: every engine, and what the recipes of the real world load.
$(WITH_EXTRAS): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[test,recipes,deepspeed]"
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
