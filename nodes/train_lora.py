"""Train LoRA (Vega)."""

from comfy_api.v0_0_2 import io

from ..vega import file_names
from . import model_lists, training_folders, training_inputs, training_run
from .lazy_list import LazyList
from .training_inputs import NONE, lines


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
                training_inputs.model_name(),
                io.Combo.Input(
                    "folder",
                    options=LazyList.of(training_folders.names),
                    tooltip="The pictures: a folder in ComfyUI's input folder. Beside boat.png its caption is in boat.txt. "
                    "kohya's folders, metadata.jsonl, metadata.csv and webdataset's .tar are read as well.",
                ),
                training_inputs.name("my-style"),
                *training_inputs.hyperparameter_inputs(steps=1500, rank=16),
                training_inputs.instance_prompt(),
                io.String.Input(
                    "class_prompt",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="Prior preservation: what the model must go on drawing as before, one prompt a line, such as: "
                    "a dog. It draws pictures of it first, and learns from them too.",
                ),
                training_inputs.sample_prompts(),
                training_inputs.overwrite(),
                *training_inputs.batches(accumulation_steps=4),
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
        answer = training_inputs.validate(model_name, name, resolution)
        return model_lists.validate(training_folders.path, folder) if answer is True else answer

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
        )
        learned_from, samples = [str(training_folders.path(folder))], ["samples/*.png"] * bool(options["sample_prompts"])
        return training_run.run(cls, "lora", model_name, learned_from, options, *samples, "loss.png")
