"""Distil LCM-LoRA (Vega)."""

from comfy_api.v0_0_2 import io

from ..vega import file_names
from . import model_lists, training_folders, training_inputs, training_run
from .lazy_list import LazyList
from .training_inputs import NONE, lines

AUTO, METHODS = "auto", ("consistency", "trajectories")
W = 7.5  # guidance of the published LCM-LoRAs


class VegaTrainLCMLora(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="VegaTrainLCMLora",
            display_name="Distil LCM-LoRA (Vega)",
            category="Vega",
            description="Makes a model's own LCM-LoRA, with which it draws in 1 to 8 steps: from prompts alone, or from a "
            "folder of pictures. It takes minutes to hours, in which ComfyUI draws nothing else. Interrupted and run again "
            "it goes on.",
            search_aliases=["distil", "distill", "distillation", "lcm", "train lcm-lora", "consistency", "few step"],
            inputs=[
                training_inputs.model_name(),
                io.String.Input(
                    "prompts",
                    default="",
                    multiline=True,
                    tooltip="What to practise on, one prompt a line, as you write them: some hundred, better some thousand. "
                    "The model draws them itself. Leave it empty if you choose a folder.",
                ),
                io.Combo.Input(
                    "folder",
                    options=LazyList.of(lambda: [NONE, *training_folders.names()]),
                    tooltip="Pictures to practise on instead of prompts: a folder in ComfyUI's input folder, with captions "
                    "as in Train LoRA (Vega). none: prompts alone.",
                ),
                training_inputs.name("my-lcm"),
                io.Combo.Input(
                    "method",
                    options=[AUTO, *METHODS],
                    default=AUTO,
                    tooltip="consistency is the published one, one small step of the model at a time. trajectories learns "
                    "where the model ends, which is better for short trainings. auto chooses by steps times pictures.",
                ),
                *training_inputs.hyperparameter_inputs(steps=1000, rank=64),
                training_inputs.instance_prompt(),
                training_inputs.sample_prompts(),
                training_inputs.overwrite(),
                io.Float.Input(
                    "w_min",
                    default=W,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    optional=True,
                    advanced=True,
                    tooltip="Least guidance that it takes over from the model: the CFG that you would draw with, less 1. "
                    "7.5 is that of the published ones; 3 for vega-nano.",
                ),
                io.Float.Input(
                    "w_max",
                    default=W,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    optional=True,
                    advanced=True,
                    tooltip="Largest guidance. If it is more than w_min, each picture gets one in between.",
                ),
                *training_inputs.batches(accumulation_steps=12),
                io.Int.Input(
                    "score_prompts",
                    default=16,
                    min=0,
                    max=1000,
                    optional=True,
                    advanced=True,
                    tooltip="How many prompts the score card at the end is of, at most one of eight; they are not trained "
                    "on. 0: no score card.",
                ),
            ],
            outputs=[
                io.AnyType.Output(
                    display_name="lora name",
                    tooltip="The file's name, for Apply LCM-LoRA (Vega), which then waits for the training.",
                ),
                io.Image.Output(
                    display_name="score card",
                    tooltip="What it draws in 1, 2, 4 and 8 steps, and below it the model in 25.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, model_name, prompts, folder, name, resolution):
        """True, or the sentence; what comes over a link is None yet."""
        answer = training_inputs.validate(model_name, name, resolution)
        if answer is True and folder != NONE:
            answer = model_lists.validate(training_folders.path, folder)
        return answer if answer is not True or None in (prompts, folder) else one_source(prompts, folder) or True

    @classmethod
    def fingerprint_inputs(cls, folder, **inputs):
        """What is in the folder, so that it trains again when a picture or a caption has changed."""
        return None if folder in (None, NONE) else training_folders.content(training_folders.path(folder))

    @classmethod
    def execute(
        cls,
        model_name,
        prompts,
        folder,
        name,
        method,
        steps,
        learning_rate,
        rank,
        resolution,
        seed,
        instance_prompt="",
        sample_prompts="",
        overwrite=False,
        w_min=W,
        w_max=W,
        batch_size=1,
        gradient_accumulation_steps=12,
        gradient_checkpointing=True,
        score_prompts=16,
    ) -> io.NodeOutput:
        """lora_name, and IMAGE [1, H, W, 3] in 0..1."""
        file_names.check(name)
        if wrong := one_source(prompts, folder):
            raise ValueError(wrong)
        options = dict(
            name=name,
            method=None if method == AUTO else method,
            steps=steps,
            learning_rate=learning_rate,
            rank=rank,
            resolution=resolution or None,
            seed=seed,
            instance_prompt=instance_prompt.strip() or None,
            sample_prompts=lines(sample_prompts),
            overwrite=overwrite,
            w_min=w_min,
            w_max=w_max,
            batch_size=batch_size,
            gradient_accumulation_steps=gradient_accumulation_steps,
            gradient_checkpointing=gradient_checkpointing,
            score_prompts=score_prompts,
        )
        if folder == NONE:
            learned_from = [f"--prompts={training_folders.write_prompts(name, prompts)}"]
        else:
            learned_from = [str(training_folders.path(folder))]
        pictures = ["score-card.png"] * bool(score_prompts) + ["samples/*.png"] * bool(options["sample_prompts"])
        return training_run.run(cls, "lcm-lora", model_name, learned_from, options, *pictures, "loss.png")


def one_source(prompts: str, folder: str) -> str | None:
    """The sentence, unless it learns either from prompts or from a folder."""
    if folder == NONE and not lines(prompts):
        return "prompts is empty: write one prompt a line, or choose a folder of pictures."
    if folder != NONE and lines(prompts):
        return f"Both prompts and the folder {folder} are given: empty prompts, or set folder to {NONE}."
    return None
