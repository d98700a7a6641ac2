"""Few-step LoRAs with the modules of an LCM-LoRA, told by their contents, metadata or names, and drawn by their recipe."""

import builtins
import hashlib
from pathlib import Path

import pytest
import torch
from lora_files import kohya, matrices, matrices_of, refused, written
from vega_pack.vega import few_step_adapters, lora, model_sampling, published_files, recipes

# Files as they are published or as people have them -> the recipe, and the steps that its makers made this one for.
PUBLISHED = {
    "dmd2_sdxl_4step_lora": ("DMD2", (4,)),
    "dmd2_sdxl_4step_lora_fp16": ("DMD2", (4,)),
    "DMD2_lcm": ("DMD2", (4,)),
    "RealVisDMD2": ("DMD2", (4,)),
    "distribution_matching_distillation": ("DMD2", (4,)),
    "Hyper-SDXL-2steps-lora": ("Hyper-SD", (2,)),
    "Hyper-SDXL-8steps-lora": ("Hyper-SD", (8,)),
    "Hyper-SDXL-8steps-no-cfg": ("Hyper-SD", (8,)),
    "Hyper-SD15-4steps-lora": ("Hyper-SD", (4,)),
    "Hyper-SD15-1step-lora": ("Hyper-SD 1-step", range(1, 9)),
    "Hyper-SDXL-1step-lora": ("Hyper-SD 1-step", range(1, 9)),
    "HyperLoRA": ("Hyper-SD", (2, 4, 8)),
    "Hyper-SD/8steps": ("Hyper-SD", (8,)),
    "Hyper-SD15-12steps-CFG-lora": ("Hyper-SD CFG", (12,)),
    "Hyper-SDXL-8steps-CFG-lora": ("Hyper-SD CFG", (8,)),
    "sdxl_lightning_2step_lora": ("SDXL-Lightning", (2,)),
    "sdxl_lightning_4step_lora": ("SDXL-Lightning", (4,)),
    "sdxlLightningLora_8step": ("SDXL-Lightning", (8,)),
    "TCD-SDXL-LoRA/pytorch_lora_weights": ("TCD", recipes.ANY_STEPS),
    "TCD-SDXL-LoRA/pytorch_lora_weights (1)": ("TCD", recipes.ANY_STEPS),
    f"models--h1t--TCD-SDXL-LoRA/snapshots/{'a' * 40}/pytorch_lora_weights": ("TCD", recipes.ANY_STEPS),
    "tcdLora_sdxl": ("TCD", recipes.ANY_STEPS),
    "pcm_sdxl_smallcfg_4step_converted": ("PCM", (4,)),
    "pcm_sdxl_smallcfg_16step_converted": ("PCM", (16,)),
    "pcm_sd15_normalcfg_8step_converted": ("PCM normal CFG", (8,)),
    "pcm_sdxl_lcmlike_lora_converted": ("LCM", recipes.ANY_STEPS),
    "PCM_Weights/sdxl/4step": ("PCM", (4,)),
    "flash-sdxl/pytorch_lora_weights": ("Flash Diffusion", (4,)),
    "FlashSDXL": ("Flash Diffusion", (4,)),
}
# What no recipe is for, and what draws it.
WITHOUT_RECIPE = {
    "sd_xl_turbo_lora_v1": ("a Turbo-LoRA", "euler_ancestral, simple, 4 steps or more and cfg 1"),
    "TDD-SDXL": ("TDD", "has its own sampler"),
    "sdxl-flash-lora": ("a Flash LoRA", "set recipe to Flash Diffusion if it is theirs"),
}
LCM = (
    "lcm-lora-sdxl",
    "Segmind-VegaRT",
    "pytorch_lora_weights",
    "lcm_lora_for_lightning",
    "LCMLoRA_SDXL",
    "animatelcm_sd15_t2v_lora",
    f"models--latent-consistency--lcm-lora-sdxl/snapshots/{'b' * 40}/pytorch_lora_weights",
    "lcm-lora-sdv1-5",
    "hyperrealism",
    "flashlight_v2",
)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_name_tells(name):
    choice = few_step_adapters.identify(Path("loras", f"{name}.safetensors"), {})
    recipe, steps = PUBLISHED[name]
    assert choice.recipe == recipes.BY_NAME[recipe]._replace(steps=steps)
    assert choice.name == recipe
    assert choice.evidence == "name"
    assert choice.source.startswith("its name")


@pytest.mark.soak
@pytest.mark.model
@pytest.mark.parametrize("name", [*PUBLISHED, "anything"])
@torch.inference_mode()
def test_a_file_shaped_as_published_is_drawn_by_its_recipe(vega, tmp_path, name):
    path = tmp_path / "loras" / f"{name}.safetensors"
    path.parent.mkdir(parents=True)
    recipe, steps = PUBLISHED.get(name, ("LCM", recipes.ANY_STEPS))
    pairs = attention("Segmind-Vega") if recipe == "Flash Diffusion" else matrices(vega[0])
    carried = model_sampling.carried_recipe(lora.apply(vega[1], written(path, kohya(pairs)[0]), 1.0))
    assert carried == recipes.BY_NAME[recipe]._replace(steps=steps)


@pytest.mark.parametrize("name", WITHOUT_RECIPE)
def test_a_name_without_recipe_tells_too(name):
    choice = few_step_adapters.identify(Path("loras", f"{name}.safetensors"), {})
    called, alternative = WITHOUT_RECIPE[name]
    assert (choice.name, choice.recipe) == (called, None)
    assert alternative in choice.alternative


@pytest.mark.parametrize("name", LCM)
def test_other_names_tell_nothing(name):
    metadata = {
        "ss_sd_model_name": "juggernaut_lightning.safetensors",
        "modelspec.title": "A lake",
        "format": "pt",
        "lora_adapter_metadata": '{"unet.base_model_name_or_path": "stabilityai/sdxl-turbo"}',
    }
    if name.startswith("lcm"):
        metadata["modelspec.description"] = "Unlike DMD2 for any fine-tune."
    metadata["modelspec.author"] = "Hyper Team"
    metadata["title"] = "A Latent Consistency LoRA, a free alternative to Turbo and Lightning"
    assert few_step_adapters.identify(Path("loras", f"{name}.safetensors"), metadata) is None


@pytest.fixture
def as_published(tmp_path, monkeypatch):
    """A file that is published as SDXL-Lightning's for four steps, under a name that says something else."""
    path = tmp_path / "hyper_2steps.safetensors"
    path.write_bytes(b"published" * 1000)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(published_files, "PUBLISHED", {9000: {digest: (recipes.LIGHTNING, 4)}})
    return path


def test_a_renamed_published_file_is_known_by_its_contents(as_published):
    choice = few_step_adapters.choose(as_published, {"modelspec.title": "PCM"})
    assert choice.evidence == "digest"
    assert choice.recipe == recipes.LIGHTNING._replace(steps=(4,))
    as_published.write_bytes(b"anything." * 1000)
    choice = few_step_adapters.choose(as_published, {"modelspec.title": "PCM"})
    assert (choice.evidence, choice.name) == ("metadata", "PCM")
    choice = few_step_adapters.choose(as_published, {})
    assert (choice.evidence, choice.recipe) == ("name", recipes.HYPER._replace(steps=(2,)))


def test_a_file_of_another_size_is_not_read(as_published, monkeypatch):
    as_published.write_bytes(b"9" * 9001)
    monkeypatch.setattr(builtins, "open", lambda *_: pytest.fail("the file was read"))
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("the file was read"))
    assert few_step_adapters.choose(as_published, {}).evidence == "name"


def test_every_published_digest_is_one(tmp_path):
    for size, files in published_files.PUBLISHED.items():
        assert size > 100 << 20
        for digest, (recipe, steps) in files.items():
            assert len(bytes.fromhex(digest)) == 32
            assert recipe in recipes.BY_NAME.values()
            assert steps is None or steps in recipe.steps


@pytest.mark.parametrize(
    ("name", "recipe", "evidence", "expected"),
    [
        ("anything", "auto", "", "LCM"),
        ("lcm-lora-sdxl", "auto", "name", "LCM"),
        ("lcm_dmd2", "auto", "name", "DMD2"),
        ("dmd2_sdxl_4step_lora", "LCM", "user", "LCM"),
        ("anything_8step", "SDXL-Lightning", "user", "SDXL-Lightning"),
    ],
)
def test_the_user_or_the_file_chooses(tmp_path, name, recipe, evidence, expected):
    path = tmp_path / f"{name}.safetensors"
    path.touch()
    choice = few_step_adapters.choose(path, {}, recipe)
    assert (choice.name, choice.evidence) == (expected, evidence)
    assert choice.recipe.steps == ((8,) if "8step" in name else recipes.BY_NAME[expected].steps)


def test_an_unknown_recipe_is_refused(tmp_path):
    with pytest.raises(ValueError, match="recipe is 'Turbo': choose auto or one of LCM, DMD2"):
        few_step_adapters.choose(tmp_path, {}, "Turbo")


@pytest.mark.model
@pytest.mark.parametrize(
    ("key", "value", "called"),
    [
        ("ss_output_name", "dmd2_sdxl_4step_lora", "DMD2"),
        ("modelspec.title", "Hyper-SD 8 steps CFG", "Hyper-SD CFG"),
        ("modelspec.description", "PCM, four steps, deterministic", "PCM"),
        ("name", "TCD-SDXL-LoRA", "TCD"),
    ],
)
@torch.inference_mode()
def test_metadata_tells_where_the_name_does_not(vega, tmp_path, key, value, called):
    path = written(tmp_path / "fast.safetensors", kohya(matrices(vega[0]))[0], {key: value})
    assert model_sampling.carried_recipe(lora.apply(vega[1], path, 1.0)).name == called
    path = written(tmp_path / "fast.safetensors", kohya(matrices(vega[0]))[0], {key: "turbo LoRA"})
    refused(vega[1], path, f"is a Turbo-LoRA by {key} in its metadata, 'turbo LoRA'", "set recipe to LCM")


@pytest.mark.model
@torch.inference_mode()
def test_the_name_decides_between_lightning_and_lcm(vega, tmp_path):
    """The same file is drawn as Lightning under such a name, and as an LCM under one that says LCM."""
    tensors = kohya(matrices(vega[0]))[0]
    named = written(tmp_path / "sdxl_lightning_4step_lora.safetensors", tensors)
    assert model_sampling.carried_recipe(lora.apply(vega[1], named, 1.0)) == recipes.LIGHTNING._replace(steps=(4,))
    renamed = named.rename(tmp_path / "lcm-sdxl_lightning.safetensors")
    assert model_sampling.carried_recipe(lora.apply(vega[1], renamed, 1.0)) is recipes.LCM


def attention(family):
    return {name: sides for name, sides in matrices_of(family).items() if "attn" in name}


@pytest.mark.model
@torch.inference_mode()
def test_flash_diffusions_attention_alone_is_its_recipe(vega, tmp_path):
    """As published it is drawn by its recipe; without a name it is asked for; with more it is none."""
    path = tmp_path / "loras" / "flash-sdxl.safetensors"
    path.parent.mkdir()
    written(path, kohya(attention("Segmind-Vega"))[0])
    flash = lora.apply(vega[1], path, 1.0)
    assert model_sampling.carried_recipe(flash) == recipes.FLASH
    assert len(flash.patches) == len(attention("Segmind-Vega")) == len(lora.recipe_targets(vega[1], recipes.FLASH))
    unnamed = path.rename(path.parent / "pytorch_lora_weights.safetensors")
    refused(vega[1], unnamed, "and so does Flash Diffusion's", "set recipe to that")
    chosen = few_step_adapters.choose(unnamed, {}, "Flash Diffusion")
    assert lora.apply(vega[1], unnamed, 1.0, chosen).patches.keys() == flash.patches.keys()
    written(path, kohya(matrices(vega[0]))[0])
    refused(vega[1], path, "changes residual blocks too", "set recipe to LCM or to its own")
    other = written(tmp_path / "flash-sdxl.safetensors", kohya(attention("SDXL"))[0])
    refused(vega[1], other, "match no base that is known", "se the file of Flash Diffusion for that", "not in the model")


@pytest.mark.model
@torch.inference_mode()
@pytest.mark.parametrize("family", ["small-sd", "tiny-sd"])
def test_a_recipe_of_sd15_is_mapped_onto_what_was_made_from_it(small, tmp_path, family):
    model = small[family][1]
    path = written(tmp_path / "Hyper-SD15-4steps-lora.safetensors", kohya(matrices_of("SD 1.5"))[0])
    assert model_sampling.carried_recipe(lora.apply(model, path, 1.0)) == recipes.HYPER._replace(steps=(4,))
    path = written(tmp_path / "flash-sd.safetensors", kohya(attention("SD 1.5"))[0])
    assert len(attention("SD 1.5")) == lora.SD15_ATTENTION_MODULE_COUNT
    assert lora.apply(model, path, 1.0).patches.keys() == {
        f"diffusion_model.{key}" for key in lora.recipe_targets(model, recipes.FLASH).values()
    }


@pytest.mark.model
@torch.inference_mode()
def test_a_recipe_that_contradicts_the_base_is_refused(vega, small, tmp_path):
    """By its modules, and by what its makers publish."""
    sd15 = written(tmp_path / "Hyper-SD15-8steps-lora.safetensors", kohya(matrices_of("SD 1.5"))[0])
    words = ("this Hyper-SD LoRA has 278 modules and matches Stable Diffusion 1.5", "the model is Segmind-Vega")
    refused(vega[1], sd15, *words, "use the file of Hyper-SD for that")
    lightning = few_step_adapters.choose(sd15, {}, "SDXL-Lightning")
    with pytest.raises(ValueError, match=r"SDXL-Lightning is for SDXL alone, and the model is Stable Diffusion 1\.5"):
        lora.apply(small["SD 1.5"][1], sd15, 1.0, lightning)
    with pytest.raises(ValueError, match="DMD2 is for SDXL alone"):
        lora.with_recipe(small["SD 1.5"][1], recipes.DMD2)


@pytest.mark.model
@torch.inference_mode()
def test_a_second_few_step_lora_is_refused(vega, tmp_path):
    path = written(tmp_path / "dmd2.safetensors", kohya(matrices(vega[0]))[0])
    once = lora.apply(vega[1], path, 1.0)
    refused_second = "already samples as DMD2 does: apply one LCM-LoRA or other few-step LoRA, and only one"
    with pytest.raises(ValueError, match=refused_second):
        lora.apply(once, path, 1.0)
    with pytest.raises(ValueError, match=refused_second):
        lora.with_recipe(once, recipes.TCD)


@pytest.mark.model
@torch.inference_mode()
@pytest.mark.parametrize("name", ["porsche_911_turbo", "lightning_bolts", "hyper_detailed_eyes", "camera_flash"])
def test_a_style_with_such_a_word_is_told_by_its_modules(vega, tmp_path, name):
    path = written(tmp_path / f"{name}.safetensors", kohya(attention("Segmind-Vega"))[0])
    with pytest.raises(ValueError, match="changes attention layers alone"):
        lora.apply(vega[1], path, 1.0)
