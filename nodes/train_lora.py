"""Train LoRA (Vega)."""

import importlib.util
import sys

import comfy.model_management
from comfy_api.v0_0_2 import io, ui

from ..vega import file_names
from . import face_notes, model_lists, training_folders, training_process, training_progress
from .lazy_list import LazyList

PACKAGES = ("accelerate", "peft")
NONE = "none"
LEAST_PIXELS, MOST_PIXELS = 64, 4096
MOST_SAVE_EVERY, SHEETS = 100, 5  # steps between two saves; sample sheets in a run


class VegaTrainLora(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="VegaTrainLora",
            display_name="Train LoRA (Vega)",
            category="Vega",
            description="Trains a LoRA of a style or a subject on a folder of your pictures, for any model that Load Vega "
            "loads. It takes minutes to hours, in which ComfyUI draws nothing else. Interrupted and run again it goes on.",
            search_aliases=["train lora", "lora training", "dreambooth", "fine-tune", "finetune", "dataset"],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=LazyList.of(model_lists.model_names),
                    tooltip="The model that the LoRA is for, as in Load Vega.",
                ),
                io.Combo.Input(
                    "folder",
                    options=LazyList.of(training_folders.names),
                    tooltip="The pictures: a folder in ComfyUI's input folder. Beside boat.png its caption is in boat.txt. "
                    "kohya's folders, metadata.jsonl, metadata.csv and webdataset's .tar are read as well.",
                ),
                io.String.Input("name", default="my-style", tooltip="Of the file in models/loras, without .safetensors."),
                io.Int.Input("steps", default=1500, min=1, max=1_000_000, tooltip="Steps of the optimizer."),
                io.Float.Input(
                    "learning_rate",
                    default=1e-4,
                    min=0.0,
                    max=1.0,
                    step=1e-6,
                    tooltip="How fast it learns. 0.0001 is usual; 0.001 for vega-nano.",
                ),
                io.Int.Input(
                    "rank", default=16, min=1, max=1024, tooltip="How much the LoRA can hold, and its file's size."
                ),
                io.Int.Input(
                    "resolution",
                    default=0,
                    min=0,
                    max=MOST_PIXELS,
                    step=8,
                    tooltip="Side in pixels of the squares that are trained on; other shapes get the same area. 0 is the "
                    "model's own. Less needs less memory and time.",
                ),
                # A switch that draws a new seed after each run would make each run another training.
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFF,
                    control_after_generate=False,
                    tooltip="The same settings and seed make the same LoRA.",
                ),
                io.String.Input(
                    "instance_prompt",
                    default="",
                    optional=True,
                    tooltip="The caption of pictures without their own, such as: a sks dog.",
                ),
                io.String.Input(
                    "class_prompt",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="Prior preservation: what the model must go on drawing as before, one prompt a line, such as: "
                    "a dog. It draws pictures of it first, and learns from them too.",
                ),
                io.String.Input(
                    "sample_prompts",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="What is drawn now and then with what was learned so far, one prompt a line.",
                ),
                io.Boolean.Input(
                    "overwrite",
                    default=False,
                    optional=True,
                    tooltip="Replaces a LoRA of that name with other settings or pictures. Off: it is refused.",
                ),
                io.Int.Input(
                    "batch_size", default=1, min=1, max=256, optional=True, advanced=True, tooltip="Pictures at once."
                ),
                io.Int.Input(
                    "gradient_accumulation_steps",
                    default=4,
                    min=1,
                    max=256,
                    optional=True,
                    advanced=True,
                    tooltip="How many batches make a step.",
                ),
                io.Boolean.Input(
                    "gradient_checkpointing",
                    default=True,
                    optional=True,
                    advanced=True,
                    tooltip="Less memory, for a third more time.",
                ),
                io.Boolean.Input(
                    "random_flip",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Mirrors every second picture. Not for faces and writing.",
                ),
                io.Boolean.Input(
                    "train_text_encoder",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Adapts the text encoders as well: then connect clip in Load LoRA (Vega).",
                ),
                io.Int.Input(
                    "num_class_images",
                    default=100,
                    min=1,
                    max=10_000,
                    optional=True,
                    advanced=True,
                    tooltip="How many pictures the model draws of class_prompt.",
                ),
                io.Combo.Input(
                    "lcm_lora",
                    options=LazyList.of(lambda: [NONE, *model_lists.lora_names()]),
                    default=NONE,
                    optional=True,
                    advanced=True,
                    tooltip="An LCM-LoRA for the model, to draw samples with in 4 steps as well. vega-nano has its own.",
                ),
            ],
            outputs=[
                io.AnyType.Output(
                    display_name="lora name",
                    tooltip="The file's name, for Load LoRA (Vega), which then waits for the training.",
                ),
                io.Image.Output(
                    display_name="samples",
                    tooltip="The last samples, or the loss of each step if there are no sample_prompts.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, model_name, folder, name, resolution):
        """True, or the sentence; what comes over a link is None yet."""
        for answer in (
            missing(PACKAGES) or True,
            model_lists.validate(model_lists.model_path, model_name),
            model_lists.validate(training_folders.path, folder),
            model_lists.validate(file_names.check, name),
            resolution is None
            or resolution == 0
            or LEAST_PIXELS <= resolution <= MOST_PIXELS
            or f"resolution is {resolution}: give 0 for the model's own, or {LEAST_PIXELS} to {MOST_PIXELS} pixels.",
        ):
            if answer is not True:
                return answer
        return True

    @classmethod
    def fingerprint_inputs(cls, folder, **inputs):
        """What is in the folder, so that it trains again when a picture or a caption has changed."""
        return None if folder is None else training_folders.content(training_folders.path(folder))

    @classmethod
    def execute(
        cls,
        model_name,
        folder,
        name,
        steps,
        learning_rate,
        rank,
        resolution,
        seed,
        instance_prompt="",
        class_prompt="",
        sample_prompts="",
        overwrite=False,
        batch_size=1,
        gradient_accumulation_steps=4,
        gradient_checkpointing=True,
        random_flip=False,
        train_text_encoder=False,
        num_class_images=100,
        lcm_lora=NONE,
    ) -> io.NodeOutput:
        """lora_name, and IMAGE [1, H, W, 3] in 0..1."""
        file_names.check(name)
        save_every = min(MOST_SAVE_EVERY, max(1, steps // SHEETS))
        options = dict(
            name=name,
            steps=steps,
            learning_rate=learning_rate,
            rank=rank,
            resolution=resolution or None,
            seed=seed,
            instance_prompt=instance_prompt.strip() or None,
            class_prompt=lines(class_prompt),
            sample_prompts=lines(sample_prompts),
            overwrite=overwrite,
            batch_size=batch_size,
            gradient_accumulation_steps=gradient_accumulation_steps,
            gradient_checkpointing=gradient_checkpointing,
            random_flip=random_flip,
            train_text_encoder=train_text_encoder,
            num_class_images=num_class_images,
            lcm_lora=None if lcm_lora == NONE else model_lists.lora_path(lcm_lora),
            save_every=save_every,
            sample_every=save_every * max(1, steps // (SHEETS * save_every)),
            output_dir=training_folders.output(),
            work=training_folders.work(),
            progress="json",
        )
        base = "vega-nano" if model_name == model_lists.EMBEDDED_MODEL else model_lists.model_path(model_name)
        given = ["lora", str(base), str(training_folders.path(folder)), *training_process.command_line(options)]
        comfy.model_management.unload_all_models()
        comfy.model_management.soft_empty_cache()
        progress, file = training_progress.TrainingProgress(steps), f"{name}.safetensors"
        training_process.run(given, training_folders.work() / f"{name}.log", progress.show)
        face_notes.send_notes(*progress.notes(file))
        picture = training_progress.last_picture(training_folders.work() / name, bool(options["sample_prompts"]))
        return io.NodeOutput(file, picture, ui=ui.PreviewImage(picture, cls=cls))


def missing(packages: tuple[str, ...]) -> str | None:
    """The sentence that says what to install, if one of these packages isn't there; training alone needs them."""
    if all(importlib.util.find_spec(package) for package in packages):
        return None
    command = f'"{sys.executable}" -m pip install {" ".join(packages)}'
    return f"Training needs {' and '.join(packages)}: run {command}, and start ComfyUI anew."


def lines(text: str) -> list[str]:
    """Those with something in them."""
    return [line.strip() for line in text.splitlines() if line.strip()]
