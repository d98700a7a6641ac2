# Development only: the pack itself needs no build. Everything lands in .venv, .host and .comfyui, all git-ignored.
COMFYUI_PATH ?=
export COMFYUI_PATH PYTHON STEPS SEED
# A prompt is text: make must not expand the dollar signs in it.
override export PROMPT := $(value PROMPT)
# Without its bytecode cache ComfyUI takes half a minute to start, every time.
unexport PYTHONDONTWRITEBYTECODE

ENVIRONMENT := .venv/installed
BIN := .venv/bin
HOSTS := 0.24.1 0.27.0 0.30.0

.PHONY: demo run serve test hosts $(HOSTS) soak bench table pictures lint validate nano clean

demo: $(ENVIRONMENT)
	@$(BIN)/python -m dev.demo

run: $(ENVIRONMENT)
	@$(BIN)/python -m dev.run

# The HTTP API of so many ComfyUI processes, by Ray Serve.
serve: REPLICAS ?= 1
serve: $(ENVIRONMENT)
	@$(BIN)/python -m dev.serve_api $(REPLICAS)

# Workers of one thread each take half the time of one with all of them, of which the others mostly wait; one more worker
# than two cores can hold fills the time in which tests wait for their servers.
WORKERS := -n 3 --dist loadfile --no-loadscope-reorder
# OpenVINO's threads and memory stay out of the processes of all other tests.
OPENVINO := $(addprefix tests/test_,openvino_graph.py openvino_failures.py cpu_unet.py cpu_unet_changed.py)
test: $(ENVIRONMENT)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(WORKERS) $(OPENVINO:%=--ignore=%)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(OPENVINO)

# What a ComfyUI can break, on the oldest one that the pack is for and on later ones, each with what it requires itself;
# `make 0.24.1` on that one alone.
CORE := accelerate accelerate_patches api_concurrency api_failures api_keys api_pictures api_validation \
    bad_input batch client client_live composition embeddings exactness face_notes_sent few_step_adapters host_version \
    incomplete_files lcm lcm_lora_files live live_refusals live_sessions loading lora lora_refused model_paths nodes \
    operators progress received recipe_nodes recipe_sampling recipes recipes_exact request_queue said_elsewhere \
    sampling saved_otherwise sd15_blocks sd15_loras send_image send_image_backpressure send_image_encoding \
    send_image_metadata send_image_stored server single_cond tiny_decoder train_node
hosts: $(HOSTS)
$(HOSTS): %: .host/venv-%/installed
	COMFYUI_PATH=$(CURDIR)/.host/ComfyUI-$@ OMP_NUM_THREADS=1 .host/venv-$@/bin/python -m pytest $(WORKERS) -m "not browser" $(CORE:%=tests/test_%.py)

soak: $(ENVIRONMENT)
	$(BIN)/python -m pytest -m soak

# ARGUMENTS="--only ours core --sizes 512" measures a part of it.
bench: $(ENVIRONMENT)
	$(BIN)/python -m bench $(ARGUMENTS)

# The README's table of what loads.
table: $(ENVIRONMENT)
	WRITE_TABLE=1 $(BIN)/python -m pytest -m soak tests/test_bases.py tests/test_lora.py tests/test_readme.py

# The pictures of README, help pages, templates and registry, by the real ComfyUI. PARTS="help_pictures" draws a part of them.
pictures: $(ENVIRONMENT)
	$(BIN)/python -m dev.pictures $(PARTS)

lint: $(ENVIRONMENT)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# What the Comfy registry checks before it takes the pack. comfy-cli is fetched for it: 19 packages and 180 MB, for seconds.
validate: $(ENVIRONMENT)
	DO_NOT_TRACK=1 $(BIN)/uvx --from comfy-cli==1.23.0 comfy --skip-prompt --no-enable-telemetry node validate

nano: $(ENVIRONMENT)
	$(BIN)/python -m train.nano $(STAGE)

clean:
	rm -rf .venv .host .comfyui .bench output

# The environment is whole when this file is newer than what it was made from.
$(ENVIRONMENT): dev/requirements.txt dev/setup.sh dev/host.py
	@sh dev/setup.sh
	@touch $@

.host/venv-%/installed: dev/requirements.txt dev/setup.sh dev/host.py
	@sh dev/setup.sh .host/venv-$* $*
	@touch $@
