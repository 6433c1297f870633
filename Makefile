# `make help` explains every target. Every target sets up what it needs first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PROFILE ?= quick
CULANE ?=
WEIGHTS ?=
RUN ?=
DETECTOR ?=
ARGS ?=
VARIANT ?=
TORCH_INDEX ?=
TESTS = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses=4 --dist=worksteal

.DEFAULT_GOAL := help
.PHONY: help setup reproduce-table bench-culane weights report test check train-synthetic perf faults fuzz lock clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'
	@echo; echo "  Settings: PYTHON=python3.12  PROFILE=quick|full|FILE.toml  CULANE=DIR  WEIGHTS=DIR  DETECTOR=NAME"
	@echo "            VARIANT=NAME  RUN=NAME  ARGS='--device cuda': more options of python -m bench run or culane"
	@echo "  TORCH_INDEX=URL takes PyTorch from another index (a CPU build, say; see README.md)"

setup: $(READY) ## build .venv with pinned dependencies

$(READY): requirements.lock scripts/setup.sh
	@PYTHON="$(PYTHON)" VENV="$(VENV)" TORCH_INDEX="$(TORCH_INDEX)" sh scripts/setup.sh
	@touch $@

reproduce-table: $(READY) ## the methods on the embedded detectors: table, CSV and plots in results/runs/PROFILE
	@$(BIN)/python -m bench run --profile $(PROFILE) $(ARGS)

bench-culane: $(READY) ## the same on real CULane: make bench-culane CULANE=DIR [WEIGHTS=weights]
	@$(BIN)/python -m bench culane --root "$(CULANE)" --weights "$(WEIGHTS)" --profile $(PROFILE) $(ARGS)

weights: $(READY) ## fetch official checkpoints: make weights [DETECTOR=NAME [VARIANT=NAME]] [WEIGHTS=weights]
	@$(BIN)/python scripts/download.py --out "$(or $(WEIGHTS),weights)" \
		$(if $(DETECTOR),--detector $(DETECTOR)) $(if $(VARIANT),--variant $(VARIANT))

report: $(READY) ## one page of what happened, from the committed records: results/report.html [RUN=NAME: a run of yours]
	@$(BIN)/python -m bench report $(if $(RUN),--name $(RUN))

test: $(READY) ## run the tests, up to four at a time with a core each
	@$(TESTS)

check: $(READY) ## formatter, linter, types and tests
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy && $(TESTS)

train-synthetic: $(READY) ## train an embedded detector again, into .cache/training/: [DETECTOR=laneatt]
	@$(BIN)/python scripts/train_synthetic.py --detector $(or $(DETECTOR),laneatt)

perf: $(READY) ## speed ratios (pytest-benchmark)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest bench/perf --benchmark-only --benchmark-columns=median,rounds \
		--benchmark-json=results/perf.json

faults: $(READY) ## put faults into real runs (kill -9, full disk, damage); the list goes to docs/faults.md
	@FAULTS_TO=docs/faults.md $(BIN)/python -m pytest -q tests/test_faults.py

fuzz: $(READY) ## hostile files for every reader, a minute each; better with atheris (pip install atheris)
	@$(BIN)/python scripts/fuzz.py --seconds 60

lock: $(READY) ## resolve requirements.lock again from pyproject.toml
	@VENV="$(VENV)" sh scripts/lock.sh

clean: ## remove the environment and local caches (results are kept)
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache
