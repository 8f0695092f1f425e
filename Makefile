# Every target works on a bare machine: the first one that needs it makes .venv and installs into it.
# Linux: Python 3.11 with pip. macOS: Python >= 3.11, or uv.
.DELETE_ON_ERROR:
.PHONY: chat test test-slow check check-all lint types contracts fmt bench kernel-report evaluate precision screenshots train-pocket clean help

# Hundreds of tests start a command; without its bytecode each would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
RUN_STAMP := .venv/.installed
DEV_STAMP := .venv/.installed-dev

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-14s %s\n", $$1, $$2}' Makefile

chat: $(RUN_STAMP)  ## open the app, at a terminal (MODEL=folder for another model than the last one)
	@$(BIN)/gptoss chat $(MODEL)

screenshots: $(DEV_STAMP)  ## make the README's pictures again, from the pocket model
	$(BIN)/python -m tests.app.pictures

# One BLAS thread a worker: two workers already use both cores of a small machine.
test: $(DEV_STAMP)  ## the tests, under 8 minutes on two cores
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: $(DEV_STAMP)  ## the tests that take minutes: widest shapes, hundreds of answers, random kills
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "slow and not alone"
	$(BIN)/python -m pytest -m alone

check: lint types contracts  ## ruff, mypy, pyright, import contracts

lint: $(DEV_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV_STAMP)
	$(BIN)/mypy
	$(BIN)/pyright

contracts: $(DEV_STAMP)
	$(BIN)/lint-imports

check-all: check test test-slow  ## everything

fmt: $(DEV_STAMP)  ## format and sort imports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(RUN_STAMP)  ## how fast the pocket model runs here (or MODEL=folder)
	@$(BIN)/gptoss bench $(MODEL)

kernel-report: $(DEV_STAMP)  ## count what every kernel moves, into metal/README.md (minutes)
	$(BIN)/python -m tests.metal.kernel_report

evaluate: $(RUN_STAMP)  ## ask the pocket model questions that it never saw
	$(BIN)/gptoss evaluate pocket

precision: $(RUN_STAMP)  ## what 8, 6 and 4 bits in the dense weights cost the pocket model (minutes)
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && trap 'exit 130' INT TERM && \
	$(BIN)/gptoss convert gptoss_mlx/pocket/checkpoint "$$folder/pocket-16bit" && \
	for bits in 8 6 4; do \
		$(BIN)/gptoss convert gptoss_mlx/pocket/checkpoint "$$folder/pocket-$${bits}bit" --dense-bits $$bits || exit 1; \
	done && \
	$(BIN)/gptoss compare pocket "$$folder/pocket-16bit" "$$folder/pocket-8bit" "$$folder/pocket-6bit" "$$folder/pocket-4bit"

train-pocket: $(RUN_STAMP)  ## train the pocket model again (installs torch; over an hour)
	$(BIN)/python -m pip install -q -e '.[train]'
	$(BIN)/python -m gptoss_mlx.pocket.train

clean:  ## remove the virtual environment and caches
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# uv where it is, else the first Python >= 3.11 with venv and pip.
.venv/bin/python:
	@sh .ci/make-venv

$(RUN_STAMP): pyproject.toml | .venv/bin/python
	@$(BIN)/python .ci/install.py run
	@touch $@

$(DEV_STAMP): pyproject.toml | .venv/bin/python
	@$(BIN)/python .ci/install.py dev
	@touch $@ $(RUN_STAMP)
