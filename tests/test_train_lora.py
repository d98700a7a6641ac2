"""Runs of `python -m train lora`: what they write and what they refuse."""

import json
from pathlib import Path

import pytest
import torch
import training_files as files
import training_runs as runs
from accelerate.state import AcceleratorState
from safetensors import safe_open
from safetensors.torch import load_file

from train.__main__ import main
from train.base import NANO

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with pictures and a run of four steps on them."""
    folder = tmp_path_factory.mktemp("run")
    runs.pictures(folder / "pictures")
    main(runs.arguments(folder))
    return folder


def again(run: Path, folder: Path, *flags, **changed) -> dict[str, torch.Tensor]:
    """The file of the same run in another folder, with these options changed."""
    runs.pictures(folder / "pictures")
    main(runs.arguments(folder, "vega-nano", *flags, **changed))
    return runs.weights(folder)


def test_the_file_says_what_it_is(run):
    with safe_open(run / "test.safetensors", "pt") as file:
        about, names = file.metadata(), list(file.keys())
    assert about["ss_network_dim"] == "2"
    assert about["ss_network_alpha"] == "2.0"
    assert about["ss_base_model_version"] == "sdxl_base_v1-0"
    assert about["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert about["modelspec.resolution"] == "64x64"
    assert json.loads(about["ss_tag_frequency"])["pictures"]["a lake at night, 2"] == 1
    assert {name.rsplit(".", 2)[-1] for name in names} == {"weight", "alpha"}
    assert all(name.startswith("lora_unet_") for name in names)
    assert len(names) % 3 == 0
    assert max(t.abs().max() for name, t in runs.weights(run).items() if "lora_up" in name) > 0


def test_it_is_the_same_every_time(run, tmp_path):
    assert runs.largest_difference(again(run, tmp_path), runs.weights(run)) == 0
    with safe_open(run / "test.safetensors", "pt") as one, safe_open(tmp_path / "test.safetensors", "pt") as other:
        assert one.metadata() == other.metadata()


@pytest.mark.parametrize(
    "changed",
    [{"snr_gamma": 0}, {"ema_decay": 0.5}, {"lr_scheduler": "cosine"}, {"max_grad_norm": 1e-4}, {"caption_dropout": 1}]
    + [
        pytest.param(changed, marks=pytest.mark.soak)
        for changed in ({"seed": 1}, {"learning_rate": 2e-3}, {"gradient_accumulation_steps": 2})
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_settings_matter(run, tmp_path, changed):
    found, plain = again(run, tmp_path, **changed), runs.weights(run)
    assert all(tensor.isfinite().all() for tensor in found.values())
    assert runs.largest_difference(found, plain) > 1e-4


def test_checkpointing_changes_nothing(run, tmp_path):
    assert runs.largest_difference(again(run, tmp_path, "--gradient-checkpointing"), runs.weights(run)) < 2e-4


def test_bf16(run, tmp_path):
    AcceleratorState._reset_state()  # it is one for the process, of the first precision that it was asked for
    try:
        found = again(run, tmp_path, mixed_precision="bf16")
    finally:
        AcceleratorState._reset_state()
    assert all(tensor.isfinite().all() for tensor in found.values())
    state = load_file(tmp_path / "work" / "test" / "training" / "4" / "model.safetensors")
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}


def test_flips_and_text_encoders(run, tmp_path):
    found = again(run, tmp_path, "--random-flip", "--train-text-encoder", text_encoder_lr=1e-3)
    prefixes = {name.partition("_text_model")[0] for name in found if "_te" in name}
    assert prefixes == {"lora_te1", "lora_te2"}
    assert len(list((tmp_path / "work" / "cache" / "latents").rglob("*.safetensors"))) == 8
    moved = [name for name in found if "lora_te" in name and "lora_up" in name and found[name].abs().max() > 1e-4]
    assert len(moved) > 10


def test_the_same_command_goes_on(run, tmp_path, capsys):
    """With a constant rate also to more steps; the result is that of one run."""
    again(run, tmp_path, steps=2)
    main(runs.arguments(tmp_path))
    assert runs.largest_difference(runs.weights(tmp_path), runs.weights(run)) == 0
    before = (tmp_path / "test.safetensors").stat().st_mtime_ns
    main(runs.arguments(tmp_path))
    assert (tmp_path / "test.safetensors").stat().st_mtime_ns >= before
    assert "loss" not in capsys.readouterr().out.splitlines()[-1]


def test_other_settings_are_refused_by_name(run):
    assert "rank was 2 and is 4" in runs.refused(run, {"rank": 4})
    assert "learning_rate was 0.001 and is 0.01" in runs.refused(run, {"learning_rate": 0.01})


def test_a_run_of_an_older_version_goes_on(run, tmp_path):
    """It did without the options that it did not know; one that is asked for now is another setting."""
    again(run, tmp_path, steps=2)
    file = tmp_path / "work" / "test" / "settings.json"
    settings = json.loads(file.read_text())
    added = ("prior_prediction", "timestep_bias_strategy", "timestep_bias_multiplier", "timestep_bias_portion")
    added += ("more_resolutions", "noise_offset")
    file.write_text(json.dumps({name: value for name, value in settings.items() if name not in added}))
    given = ("--prior-prediction", "--class-prompt", "a lake")
    assert "prior_prediction was False and is True" in runs.refused(tmp_path, "vega-nano", *given, {})
    main(runs.arguments(tmp_path))
    assert runs.largest_difference(runs.weights(tmp_path), runs.weights(run)) == 0


def test_other_pictures_are_refused(run, tmp_path):
    again(run, tmp_path)
    (tmp_path / "pictures" / "0.txt").write_text("another caption")
    assert "pictures was" in runs.refused(tmp_path, {})
    main(runs.arguments(tmp_path, "vega-nano", "--overwrite"))
    assert runs.largest_difference(runs.weights(tmp_path), runs.weights(run)) > 0
    assert "steps was 4 and is 2" in runs.refused(tmp_path, {"steps": 2})
    assert len(list((tmp_path / "work" / "cache" / "latents").rglob("*.safetensors"))) == 4
    assert len(list((tmp_path / "work" / "cache" / "texts").rglob("*.safetensors"))) == 6


def test_overwrite_goes_on_where_nothing_differs(run, tmp_path):
    """What was trained is not lost to it: the run that was broken off after two steps ends as one of four."""
    again(run, tmp_path, steps=2)
    marked = tmp_path / "work" / "test" / "settings.json.note"
    marked.touch()
    main(runs.arguments(tmp_path, "vega-nano", "--overwrite"))
    assert marked.exists(), "the run's folder was not begun anew"
    assert runs.largest_difference(runs.weights(tmp_path), runs.weights(run)) == 0


def test_overwrite_forgets_no_sooner_than_it_must(run, tmp_path):
    """What can be refused is refused before that; the file stays until there is another; a folder is removed whole."""
    expected, work = again(run, tmp_path), tmp_path / "work"
    for changed, words in (
        ({"lcm_lora": "nowhere"}, "--lcm-lora nowhere"),
        ({"vae": tmp_path}, "config.json can't be read"),
    ):
        assert words in runs.refused(tmp_path, "vega-nano", "--overwrite", {"rank": 4, **changed})
    (work / ".test.old").touch()  # in the way of what is forgotten
    assert "can't be removed" in runs.refused(tmp_path, "vega-nano", "--overwrite", {"rank": 4})
    (work / ".test.old").unlink()
    main(runs.arguments(tmp_path))
    assert "to_nowhere" in runs.refused(tmp_path, "vega-nano", "--overwrite", {"target_modules": "to_nowhere"})
    assert not (work / "test" / "training").exists()
    assert runs.largest_difference(runs.weights(tmp_path), expected) == 0
    assert {folder.name for folder in work.iterdir()} == {"cache", "test", ".test.lock"}


def test_a_first_try_that_failed_binds_nobody(tmp_path):
    """Nothing was made by it, so another rank is no other run's."""
    runs.pictures(tmp_path / "pictures")
    assert "to_nowhere" in runs.refused(tmp_path, {"target_modules": "to_nowhere"})
    main(runs.arguments(tmp_path, rank=1))


def test_a_file_that_exists_is_kept(tmp_path):
    runs.pictures(tmp_path / "pictures")
    (tmp_path / "test.safetensors").write_bytes(b"mine")
    assert "exists" in runs.refused(tmp_path, {})
    assert (tmp_path / "test.safetensors").read_bytes() == b"mine"


@pytest.mark.parametrize("option", ["--output-dir", "--work"])
def test_a_folder_that_takes_no_file_is_told_first(tmp_path, option):
    """And not when all has been learned."""
    runs.pictures(tmp_path / "pictures")
    (tmp_path / "file").write_bytes(b"mine")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        said = runs.refused(tmp_path, "vega-nano", f"{option}={place}", {})
        assert f"Nothing can be written to {option} {place}" in said
        assert "\n" not in said
    assert not (tmp_path / "work" / "cache").exists()


@pytest.mark.parametrize(
    ("base", "changed", "words"),
    [
        ("nowhere", {}, "does not exist"),
        (NANO / "lcm-lora" / "pytorch_lora_weights.safetensors", {}, "it is a LoRA"),
        ("vega-nano", {"mixed_precision": "fp16"}, "needs a GPU"),
        ("vega-nano", {"report_to": "wandb"}, "pip install wandb"),
        ("vega-nano", {"vae": "nowhere"}, "--vae nowhere"),
        ("vega-nano", {"lcm_lora": "nowhere"}, "--lcm-lora nowhere"),
        ("vega-nano", {"name": "Cache"}, "where all runs keep latents"),
        ("vega-nano", {"target_modules": "to_nowhere"}, "to_nowhere"),
    ],
    ids=["base", "lora", "fp16", "wandb", "vae", "lcm-lora", "cache", "targets"],
)
def test_bad_calls_get_one_sentence(tmp_path, base, changed, words):
    runs.pictures(tmp_path / "pictures")
    said = runs.refused(tmp_path, base, changed)
    assert words in said
    assert "\n" not in said


@pytest.mark.parametrize(
    "given", ["--rank=0", "--name=a/b", "--name=", "--caption-dropout=2", "--steps=many", "--batch-size=0"]
)
def test_options_that_can_not_be(tmp_path, given, capsys):
    with pytest.raises(SystemExit):
        main([*runs.arguments(tmp_path), given])
    assert given.partition("=")[0] in capsys.readouterr().err


def test_no_pictures(tmp_path):
    files.write(tmp_path / "pictures", {"a.png": files.png()})
    assert "no caption" in runs.refused(tmp_path, {})


def test_events_for_programs(tmp_path, capsys):
    runs.pictures(tmp_path / "pictures")
    main(runs.arguments(tmp_path, "vega-nano", "--progress=json"))
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    steps = [event for event in events if event["event"] == "step"]
    assert [event["step"] for event in steps] == [1, 2, 3, 4]
    assert steps[-1]["seconds_left"] == 0
    assert events[-1]["event"] == "done"
    assert events[-1]["file"] == str(tmp_path / "test.safetensors")
