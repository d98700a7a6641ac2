"""The schemas: what is saved in people's workflows must not drift from what is executed."""

import inspect

import pytest
from vega_pack.extension import (
    VegaAccelerate,
    VegaBatch,
    VegaLCMLora,
    VegaLCMSampler,
    VegaLiveImage,
    VegaLiveLatent,
    VegaLoader,
    VegaLoraLoader,
    VegaReceiveImage,
    VegaSendImage,
    VegaTinyVAEDecode,
    VegaTrainLCMLora,
    VegaTrainLora,
)

INPUTS = {
    VegaLoader: ["model_name", "vae"],
    VegaLCMLora: ["model", "lora_name", "strength_model", "recipe", "eta"],
    VegaLoraLoader: ["model", "lora_name", "strength_model", "clip", "strength_clip", "made_for"],
    VegaAccelerate: ["model", "mode"],
    VegaLCMSampler: ["model", "seed", "steps", "positive", "latent_image", "denoise", "negative", "cfg"],
    VegaTinyVAEDecode: ["samples", "vae"],
    VegaSendImage: ["images", "format", "quality", "metadata"],
    VegaReceiveImage: ["image"],
    VegaTrainLora: ["model_name", "folder", "name", "steps", "learning_rate", "rank", "resolution", "seed"]
    + ["instance_prompt", "class_prompt", "sample_prompts", "overwrite", "batch_size", "gradient_accumulation_steps"]
    + ["gradient_checkpointing", "random_flip", "train_text_encoder", "num_class_images", "lcm_lora"],
    VegaTrainLCMLora: ["model_name", "prompts", "folder", "name", "method", "steps", "learning_rate", "rank", "resolution"]
    + ["seed", "instance_prompt", "sample_prompts", "overwrite", "w_min", "w_max", "batch_size"]
    + ["gradient_accumulation_steps", "gradient_checkpointing", "score_prompts"],
    VegaLiveImage: ["picture", "threshold"],
    VegaLiveLatent: ["samples", "feedback"],
    VegaBatch: ["latent_image", "seeds", *(f"positive_{k}" for k in (1, 2, 3, 4))],
}


OTHER_IDS = {VegaBatch: "VegaTogether"}  # than the class's name


@pytest.mark.parametrize("node", INPUTS)
def test_ids_are_the_ones_promised_and_the_ones_executed(node):
    schema = node.define_schema()
    assert schema.node_id == OTHER_IDS.get(node, node.__name__)
    assert [i.id for i in schema.inputs] == INPUTS[node]
    assert list(inspect.signature(node.execute).parameters) == INPUTS[node]


@pytest.mark.parametrize("node", INPUTS)
def test_everything_explains_itself(node):
    schema = node.define_schema()
    assert schema.description
    assert schema.search_aliases
    assert all(i.tooltip for i in [*schema.inputs, *schema.outputs])
