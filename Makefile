# Development only: the pack itself needs no build. Everything lands in .venv, .host and .comfyui, all git-ignored.
PYTHON ?= $(shell command -v python3.12 || command -v python3.11 || command -v python3)
COMFYUI_PATH ?=
export COMFYUI_PATH PROMPT STEPS SEED

ENVIRONMENT := .venv/installed
BIN := .venv/bin

.PHONY: demo run test soak lint nano clean

demo: $(ENVIRONMENT)
	@$(BIN)/python dev/demo.py

run: $(ENVIRONMENT)
	@$(BIN)/python dev/run.py

test: $(ENVIRONMENT)
	$(BIN)/python -m pytest

soak: $(ENVIRONMENT)
	$(BIN)/python -m pytest -m soak

lint: $(ENVIRONMENT)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

nano: $(ENVIRONMENT)
	$(BIN)/python -m train

clean:
	rm -rf .venv .host .comfyui output

# The environment is whole when this file is newer than what it was made from.
$(ENVIRONMENT): dev/requirements.txt dev/setup.sh dev/host.py
	@PYTHON="$(PYTHON)" sh dev/setup.sh
	@touch $@
