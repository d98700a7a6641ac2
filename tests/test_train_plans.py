"""Plans of smaller UNets: what each makes of its base, and which are refused."""

import json
from pathlib import Path

import pytest
import torch
import training_runs as runs
from diffusers import UNet2DConditionModel
from vega_pack.vega.diffusers_config import host_config

from dev import diffusers_folders, single_files
from train import block_plan, student_unet
from train.__main__ import main
from train.base import Base, open_base

pytestmark = pytest.mark.model
# Plan -> its base, the published model that it makes, and that model's parameters in millions.
PUBLISHED = {
    "small-sd": ("SD 1.5", "small-sd", 579.4),
    "tiny-sd": ("SD 1.5", "tiny-sd", 323.4),
    "ssd-1b": ("SDXL", "SSD-1B", 1331.3),
    "vega": ("SDXL", "Segmind-Vega", 745.2),
}


def base_of(folder: Path, unet: UNet2DConditionModel) -> Base:
    """A base that is nothing but the UNet's config.json."""
    unet.save_config(folder / "unet")
    return open_base(str(folder))


def written(folder: Path, **changed) -> str:
    """A file with the plan for half of vega-nano, changed; what is changed to ... is left out."""
    content = json.loads(runs.half_plan(folder).read_text()) | changed
    file = folder / "changed.json"
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not ...}))
    return str(file)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_student_is_the_published_model(tmp_path, name):
    """At real dimensions: each of its weights is one of the base's, and its config.json that of the published model."""
    family, made, millions = PUBLISHED[name]
    whole, published = (diffusers_folders.real_unet(each) for each in (family, made))
    found = student_unet.make_student(block_plan.read(name), base_of(tmp_path, whole))
    theirs, given = published.state_dict(), whole.state_dict()
    assert round(sum(weight.numel() for weight in theirs.values()) / 1e6, 1) == millions
    with torch.device("meta"):
        ours = UNet2DConditionModel.from_config(found.config).state_dict()
    assert {name: weight.shape for name, weight in ours.items()} == {name: weight.shape for name, weight in theirs.items()}
    assert found.names.keys() == theirs.keys()
    assert all(given[there].shape == theirs[name].shape for name, there in found.names.items())
    assert len(set(found.names.values())) == len(found.names)
    expected = host_config(json.loads(published.to_json_string()), tmp_path)
    assert host_config(found.config, tmp_path) == expected


def prune(unet: UNet2DConditionModel, tiny: bool) -> None:
    """What segmind/distill-sd takes out of SD 1.5, in the order in which its prepare_unet does it."""
    if tiny:
        unet.mid_block = None
    for block in unet.down_blocks:
        del block.resnets[1]
        if hasattr(block, "attentions"):
            del block.attentions[1]
    if tiny:
        del unet.down_blocks[3]
        unet.down_blocks[2].downsamplers = None
    for block in unet.up_blocks:
        del block.resnets[1]
        if hasattr(block, "attentions"):
            del block.attentions[1]
    if tiny:
        del unet.up_blocks[0]


@pytest.mark.parametrize("name", ["small-sd", "tiny-sd"])
def test_it_keeps_what_distill_sd_keeps(tmp_path, name):
    """And computes what its pruned UNet computes."""
    modules = diffusers_folders.write(tmp_path, "SD 1.5")
    base, expected = open_base(str(tmp_path)), modules["unet"]
    prune(expected, name == "tiny-sd")
    found = student_unet.load(student_unet.make_student(block_plan.read(name), base), base, torch.float32)
    ours, theirs = found.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    x, context = torch.randn(1, 4, 16, 8).double(), torch.randn(1, 77, 64).double()
    with torch.no_grad():
        drawn, reference = (unet.double()(x, 500, context).sample for unet in (found, expected))
    assert (drawn - reference).abs().max() < 1e-12


def test_transformer_layers_are_the_plans(tmp_path):
    found = student_unet.make_student(block_plan.read("ssd-1b"), base_of(tmp_path, diffusers_folders.unet("SDXL")))
    start, weight = "up_blocks.0.attentions", "attn1.to_q.weight"
    for block, layers in enumerate(((0, 3, 6, 9), (0, 3, 6, 9), range(10))):
        for number, layer in enumerate(layers):
            there = found.names[f"{start}.{block}.transformer_blocks.{number}.{weight}"]
            assert there == f"{start}.{block}.transformer_blocks.{layer}.{weight}"
    assert found.names["mid_block.resnets.0.conv1.weight"] == "mid_block.resnets.0.conv1.weight"
    assert found.features["up_blocks.2"] == "up_blocks.2"
    assert len(found.features) == 7


def test_a_student_of_a_single_file(tmp_path):
    modules = single_files.write(tmp_path / "base.safetensors", "SDXL")
    base = open_base(str(tmp_path / "base.safetensors"))
    found = student_unet.make_student(block_plan.read("vega"), base)
    given, unet = modules["unet"].state_dict(), student_unet.load(found, base, torch.float32)
    assert unet.state_dict().keys() == diffusers_folders.unet("Segmind-Vega").state_dict().keys()
    assert all(torch.equal(weight, given[found.names[name]]) for name, weight in unet.state_dict().items())


def test_half_of_vega_nano(tmp_path):
    base = open_base("vega-nano")
    found = student_unet.make_student(block_plan.read(str(runs.half_plan(tmp_path))), base)
    unet = student_unet.load(found, base, torch.float32)
    given = base.unet().state_dict()
    assert 0.3 < unet.num_parameters() / sum(weight.numel() for weight in given.values()) < 0.7
    assert all(torch.equal(weight, given[found.names[name]]) for name, weight in unet.state_dict().items())
    assert found.names["up_blocks.1.resnets.1.conv1.weight"] == "up_blocks.1.resnets.2.conv1.weight"


# --to, or what is changed in the plan for half of vega-nano, and words of the sentence.
REFUSED = {
    "unknown": ("huge", "there is no such plan. Give small-sd, ssd-1b, tiny-sd, vega, or"),
    "no JSON": (__file__, "this is no plan"),
    "no blocks": ({"up_blocks": ...}, "this is no plan (KeyError('up_blocks'))"),
    "no numbers": ({"mid_block": ["all"]}, "is no list of numbers"),
    "family": ("small-sd", "is for SD 1.5, and"),
    "lacking layer": ("vega", "keeps down_blocks.2.attentions.0.transformer_blocks.9, which"),
    "lacking middle": ({"mid_block": [0]}, "mid_block.attentions.0.transformer_blocks.0, which"),
    "lacking level": (
        {"down_blocks": {"0": {"0": []}, "1": {"0": [0]}, "3": {"0": [0]}}},
        "keeps down_blocks.3.resnets.0, which",
    ),
    "levels": ({"up_blocks": {"0": {"0": [0], "1": [0], "2": [0]}}}, "3 levels go down and 1 up"),
    "blocks": (
        {"down_blocks": {"0": {"0": []}, "1": {"0": [0]}, "2": {"0": [0], "1": [0]}}},
        "level 2 going down keeps 2 blocks",
    ),
    "attention": (
        {"up_blocks": {"0": {"0": [0], "2": []}, "1": {"0": [0], "2": [0]}, "2": {"0": [], "2": []}}},
        "a level keeps attention in some of its blocks",
    ),
    "order": (
        {"down_blocks": {"1": {"0": [0]}, "0": {"0": []}, "2": {"0": [0]}}},
        "goes up by the levels 0, 1, 2; it must be 0, 2, 1",
    ),
    "fit": (
        {"up_blocks": {"0": {"0": [0], "1": [0]}, "1": {"0": [0], "1": [0]}, "2": {"0": [], "1": []}}},
        "the blocks that it keeps don't fit each other",
    ),
    "features": ({"features": {"down_blocks.9": "mid_block"}}, "down_blocks.9, which the student"),
    "names of features": ({"features": {"mid_block": 3}}, "are no names of modules"),
    "a list of blocks": (
        {"features": {"down_blocks.1.attentions": "down_blocks.1.attentions"}},
        "down_blocks.1.attentions, which gives no output in the student",
    ),
    "shapes": (
        {"features": {"down_blocks.0": "down_blocks.1"}},
        "gives [1, 64, 32, 32] of a picture of 512 pixels, with the base's down_blocks.1, which gives [1, 64, 16, 16]",
    ),
    "unknown key": ({"feature": {}}, "'feature' is no key of a plan, which has family, down_blocks"),
    "spelling": ({"family": "sdxl"}, "the family 'sdxl' is none; write SD 1.5 or SDXL"),
    "a layer twice": (
        {"up_blocks": {"0": {"0": [0, 0], "2": [0]}, "1": {"0": [0], "2": [0]}, "2": {"0": [], "2": []}}},
        "up_blocks.0.attentions.0 keeps a layer twice, [0, 0]",
    ),
    "another key": ({"mid_block": ..., "middle_block": []}, "'middle_block' is no key of a plan"),
}


@pytest.mark.parametrize(("to", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_plan_for_it(tmp_path, to, words):
    runs.pictures(tmp_path / "pictures")
    said = runs.refused(tmp_path, {"verb": "distill", "to": to if isinstance(to, str) else written(tmp_path, **to)})
    assert words in said
    assert "\n" not in said


def test_features_that_are_not_compared_may_differ(tmp_path):
    runs.pictures(tmp_path / "pictures", 2)
    plan = written(tmp_path, features={"down_blocks.0": "down_blocks.1"})
    main(runs.arguments(tmp_path, verb="distill", to=plan, feature_weight=0, steps=1))
    assert (tmp_path / "test" / "model_index.json").is_file()


def test_what_is_small_already(tmp_path):
    base = base_of(tmp_path, diffusers_folders.unet("tiny-sd"))
    with pytest.raises(ValueError, match="no more blocks than tiny-sd keeps: it is that small already"):
        student_unet.make_student(block_plan.read("tiny-sd"), base)
