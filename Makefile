# Everything happens in a virtual environment of the project's own, made on first use.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo ui test check lint types bench-quality bench-paper bench-samples bench-generate bench-photographs bench-speed bench-answers bench-levers bench-edges bench-growth bench-sd bench-ablations clean

demo: $(VENV)/.package
	$(BIN)/python examples/demo.py

ui: $(VENV)/.ui
	$(BIN)/peekaboo ui

test: $(VENV)/.dev
	$(BIN)/python -m pytest

check: lint types test

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

bench-quality: $(VENV)/.training
	$(BIN)/python benchmarks/quality.py

bench-speed: $(VENV)/.training
	$(BIN)/python benchmarks/speed.py

bench-levers: $(VENV)/.training
	$(BIN)/python benchmarks/levers.py

bench-answers: $(VENV)/.training
	$(BIN)/python benchmarks/answers.py

bench-paper: $(VENV)/.training
	$(BIN)/python benchmarks/paper.py

bench-samples: $(VENV)/.training
	$(BIN)/python benchmarks/samples.py

bench-generate: $(VENV)/.training
	$(BIN)/python benchmarks/generate.py

bench-edges: $(VENV)/.training
	$(BIN)/python benchmarks/edges.py

bench-growth: $(VENV)/.training
	$(BIN)/python benchmarks/growth.py

bench-ablations: $(VENV)/.training
	$(BIN)/python benchmarks/ablations.py

bench-sd: $(VENV)/.package
	$(BIN)/python benchmarks/sd_size.py

# COCO names a folder with images/ and instances.json
bench-photographs: $(VENV)/.package
	$(BIN)/python benchmarks/photographs.py --root $(COCO)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.package: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.package
	$(PIP) --editable '.[dev]'
	touch $@

$(VENV)/.ui: $(VENV)/.package
	$(PIP) --editable '.[ui]'
	touch $@

$(VENV)/.training: $(VENV)/.package
	$(PIP) --editable '.[training]'
	touch $@

clean:
	rm -rf $(VENV) examples/out .pytest_cache .mypy_cache .ruff_cache
