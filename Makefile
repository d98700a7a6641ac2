# Development only: the pack itself needs no build. Everything lands in .venv, .host and .comfyui, all git-ignored.
COMFYUI_PATH ?=
export COMFYUI_PATH PYTHON STEPS SEED
# A prompt is text: make must not expand the dollar signs in it.
override export PROMPT := $(value PROMPT)
# Without its bytecode cache ComfyUI takes half a minute to start, every time.
unexport PYTHONDONTWRITEBYTECODE

ENVIRONMENT := .venv/installed
BIN := .venv/bin

.PHONY: demo run test soak table lint nano clean

demo: $(ENVIRONMENT)
	@$(BIN)/python dev/demo.py

run: $(ENVIRONMENT)
	@$(BIN)/python dev/run.py

test: $(ENVIRONMENT)
	$(BIN)/python -m pytest

soak: $(ENVIRONMENT)
	$(BIN)/python -m pytest -m soak

# The README's table of what loads.
table: $(ENVIRONMENT)
	WRITE_TABLE=1 $(BIN)/python -m pytest -m soak tests/test_bases.py tests/test_lora.py tests/test_readme.py

lint: $(ENVIRONMENT)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

nano: $(ENVIRONMENT)
	$(BIN)/python -m train $(STAGE)

clean:
	rm -rf .venv .host .comfyui output

# The environment is whole when this file is newer than what it was made from.
$(ENVIRONMENT): dev/requirements.txt dev/setup.sh dev/host.py
	@sh dev/setup.sh
	@touch $@
