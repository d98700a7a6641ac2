"""The recipe at the nodes: chosen by file or by hand, for a fused checkpoint, and what stands on their faces."""

import pytest
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete
from recipe_drawing import with_recipe
from vega_pack.nodes import lcm_lora, lcm_lora_files, lcm_sampler, model_lists
from vega_pack.nodes.lcm_lora import VegaLCMLora
from vega_pack.nodes.lcm_sampler import VegaLCMSampler
from vega_pack.vega import model_sampling, recipes

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("inference")]
EMBEDDED, FUSED = model_lists.EMBEDDED_LORA, recipes.FUSED_LORA


def applied(model, *inputs, **more):
    (patched,) = VegaLCMLora.execute(model, *inputs, **more).args
    return patched, model_sampling.carried_recipe(patched)


def test_a_recipe_can_be_chosen(nano):
    assert applied(nano[0], EMBEDDED, 1.0)[1] is recipes.LCM
    assert applied(nano[0], EMBEDDED, 1.0, "auto", -1.0)[1] is recipes.LCM
    assert applied(nano[0], EMBEDDED, 1.0, "DMD2")[1] == recipes.DMD2
    assert applied(nano[0], EMBEDDED, 1.0, "TCD", 0.6)[1] == recipes.TCD._replace(eta=0.6)
    with pytest.raises(ValueError, match=r"eta is 1\.5; TCD takes 0 to 1"):
        applied(nano[0], EMBEDDED, 1.0, "TCD", 1.5)
    with pytest.raises(ValueError, match="eta is 0.5, and LCM has none"):
        applied(nano[0], EMBEDDED, 1.0, eta=0.5)
    with pytest.raises(ValueError, match="recipe is 'Turbo': choose auto or one of LCM"):
        applied(nano[0], EMBEDDED, 1.0, "Turbo")


def test_a_fused_checkpoint_gets_a_recipe_and_no_lora(nano):
    patched, recipe = applied(nano[0], FUSED, 1.0, "Hyper-SD 1-step", 0.5)
    assert recipe == recipes.HYPER_ONE_STEP._replace(eta=0.5)
    assert patched.patches == {}
    assert applied(nano[0], FUSED, 0.0, "DMD2")[0] is nano[0]
    with pytest.raises(ValueError, match="There is no LoRA to tell the recipe by: set recipe to that of the adapter"):
        applied(nano[0], FUSED, 1.0)
    with pytest.raises(ValueError, match="already samples as Hyper-SD 1-step does"):
        applied(patched, EMBEDDED, 1.0)


def test_other_kinds_of_models_get_no_recipe(nano):
    """Of v-prediction, by the host's ModelSamplingDiscrete as by a checkpoint; with a LoRA and without one."""
    (other,) = ModelSamplingDiscrete().patch(nano[0], "v_prediction", False)
    for name, recipe in ((FUSED, "LCM"), (FUSED, "Hyper-SD"), (EMBEDDED, "auto")):
        with pytest.raises(ValueError, match="are for models of the Stable Diffusion family that predict the noise"):
            applied(other, name, 1.0, recipe)
    (same,) = ModelSamplingDiscrete().patch(nano[0], "eps", False)
    assert applied(same, FUSED, 1.0, "LCM")[1] is recipes.LCM


def test_none_is_in_the_list_and_is_no_file():
    assert lcm_lora_files.names()[:2] == [EMBEDDED, FUSED]
    assert VegaLCMLora.validate_inputs(FUSED) is True
    assert VegaLCMLora.fingerprint_inputs(FUSED) is None


def test_the_recipes_are_in_the_list_with_auto_first():
    (combo,) = (slot for slot in VegaLCMLora.define_schema().inputs if slot.id == "recipe")
    assert combo.options == ["auto", *recipes.BY_NAME]
    assert (combo.default, combo.optional) == ("auto", True)
    for name in ("DMD2", "Flash Diffusion"):
        assert recipes.BY_NAME[name].licence
        assert name in combo.tooltip
    assert "non-commercial" in combo.tooltip


@pytest.mark.parametrize("evidence", lcm_lora.RECIPE_NOTES)
def test_the_note_says_the_recipe_and_the_licence(evidence):
    (note,) = lcm_lora.recipe_notes(recipes.TCD, evidence)
    assert (note.key, note.values, note.is_warning) == (lcm_lora.RECIPE_NOTES[evidence], {"recipe": "TCD"}, False)
    _, licence = lcm_lora.recipe_notes(recipes.DMD2, evidence)
    assert (licence.values, licence.is_warning) == ({"recipe": "DMD2", "licence": "CC BY-NC 4.0"}, True)


@pytest.mark.parametrize(
    ("name", "steps", "cfg", "expected"),
    [
        ("LCM", 50, 1.0, []),
        ("DMD2", 4, 1.0, []),
        ("DMD2", 8, 1.0, [("stepsMadeFor", {"recipe": "DMD2", "steps": "4"}, True)]),
        ("PCM", 3, 1.5, [("stepsMadeFor", {"recipe": "PCM", "steps": "2, 4, 8, 16"}, True)]),
        ("Hyper-SD 1-step", 9, 1.0, [("stepsMadeFor", {"recipe": "Hyper-SD 1-step", "steps": "1-8"}, True)]),
        ("Hyper-SD CFG", 8, 1.0, [("cfgOfMakers", {"recipe": "Hyper-SD CFG", "cfg": "5"}, False)]),
        ("Hyper-SD CFG", 8, 3.5, [("cfgMadeFor", {"recipe": "Hyper-SD CFG", "least": "5", "most": "8"}, True)]),
        ("Hyper-SD CFG", 12, 7.0, []),
    ],
)
def test_the_sampler_says_what_the_recipe_was_made_for(few_step, name, steps, cfg, expected):
    notes = lcm_sampler.recipe_notes(with_recipe(few_step, name), steps, cfg)
    assert [tuple(note) for note in notes] == expected


def test_the_sampler_says_nothing_of_a_model_without_recipe(nano):
    assert lcm_sampler.recipe_notes(nano[0], 3, 1.0) == []


def test_old_inputs_alone_draw_as_before(few_step, positive):
    """As of graphs that were saved before there were recipes."""
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    (before,) = VegaLCMSampler.execute(few_step, 7, 2, positive, latent, 1.0).args
    (now,) = VegaLCMSampler.execute(few_step, 7, 2, positive, latent, 1.0, negative=None, cfg=1.0).args
    assert torch.equal(before["samples"], now["samples"])
