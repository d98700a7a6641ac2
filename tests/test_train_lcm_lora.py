"""Runs of `python -m train lcm-lora`: what they write and refuse, on pictures and on prompts alone, by both methods."""

import json

import numpy as np
import pytest
import torch
import training_files as files
import training_runs as runs
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from host_loras import host_modules
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from vega_pack.vega import checkpoint, lora

from dev import diffusers_folders, single_files
from train import lcm_lora_run, score_card, teacher_files
from train.__main__ import main, parser
from train.adapters import LCM_TARGET_MODULES
from train.base import open_base
from train.diffusion import NOISE_SCHEDULE
from train.training_run import TrainingRun

pytestmark = pytest.mark.model
QUICK = ("Segmind-Vega", "tiny-sd")  # in make test
PROMPTS = [f"{time} over {place}" for time in ("night", "dawn", "sunset", "day") for place in ("a lake", "hills", "a city")]


def prompts(folder) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n\n" + PROMPTS[0], encoding="utf-8")
    return str(folder / "prompts.txt")


def distil(folder, base="vega-nano", *flags, from_prompts=False, **changed) -> dict[str, torch.Tensor]:
    """The file of a run in the folder."""
    if from_prompts:
        changed["prompts"] = prompts(folder)
    else:
        runs.pictures(folder / "pictures")
    with torch.enable_grad():
        main(runs.arguments(folder, base, *flags, verb="lcm-lora", **changed))
    return runs.weights(folder)


@pytest.fixture(scope="module", autouse=True)
def small():
    """Few trajectories a file and few steps of the teacher, of which a run of four steps still needs several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher_files, "TRAJECTORIES_PER_FILE", 3)
        patch.setattr(teacher_files, "SAMPLES_PER_FILE", 6)
        patch.setattr(teacher_files, "SAMPLE_BATCH_SIZE", 2)
        patch.setattr(score_card, "TEACHER_STEPS", 3)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with pictures and a run of four steps on them."""
    folder = tmp_path_factory.mktemp("run")
    distil(folder)
    return folder


def test_the_file_says_what_it_is(run):
    with safe_open(run / "test.safetensors", "pt") as file:
        about = file.metadata()
    assert not [name for name in about if name.startswith("ss_")]
    assert about["modelspec.title"] == "test LCM-LoRA"
    assert about["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    found = runs.weights(run)
    assert {tensor.item() for name, tensor in found.items() if name.endswith(".alpha")} == {2.0}
    assert max(t.abs().max() for name, t in found.items() if "lora_up" in name) > 0


@pytest.mark.parametrize(
    "changed",
    [
        {"w_max": 12},
        # What these two compute is in test_train_consistency.py.
        pytest.param({"unconditional": "zeros"}, marks=pytest.mark.soak),
        pytest.param({"loss_type": "l2"}, marks=pytest.mark.soak),
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_settings_matter(run, tmp_path, changed):
    found = distil(tmp_path, save_every=4, **changed)
    assert all(tensor.isfinite().all() for tensor in found.values())
    assert runs.largest_difference(found, runs.weights(run)) > 1e-4


@pytest.mark.parametrize(
    "changed",
    [pytest.param({"from_prompts": True}, marks=pytest.mark.soak), {"method": "trajectories"}],
    ids=["prompts", "trajectories"],
)
def test_the_same_command_goes_on(tmp_path, changed):
    """Also to more steps, for which the teacher draws more; the result is that of one run."""
    whole = distil(tmp_path / "whole", steps=5, **changed)
    distil(tmp_path / "broken", steps=2, **changed)
    drawn = sorted((tmp_path / "broken" / "work" / "test" / "trajectories").iterdir())
    before = [file.read_bytes() for file in drawn]
    assert runs.largest_difference(distil(tmp_path / "broken", steps=5, **changed), whole) == 0
    assert len(before) == 1
    assert [file.read_bytes() for file in drawn] == before
    assert len(list(drawn[0].parent.iterdir())) == 2


def test_the_method_is_chosen_by_the_samples(run, tmp_path):
    """Trajectories for fewer than the published recipe has; a run that goes on keeps its own, unless it begins anew."""

    def method(folder, *flags, **changed):
        given = runs.arguments(folder, "vega-nano", *flags, verb="lcm-lora", method=None, alpha=2.0, **changed)
        training = TrainingRun(parser().parse_args(given))
        return lcm_lora_run.method(training, training.folder.stored_settings().get("pictures", ""))

    assert method(tmp_path, steps=999, batch_size=12) == "trajectories"
    assert method(tmp_path, steps=500, batch_size=12, gradient_accumulation_steps=2) == "consistency"
    assert method(run) == "consistency"
    assert method(run, "--overwrite") == "consistency"
    assert method(run, "--overwrite", rank=4) == "trajectories"


def test_autocast_keeps_no_weights(tmp_path):
    """The teacher's evaluations under no_grad leave the student none that learn nothing, whatever torch's version."""
    given = runs.arguments(tmp_path, "vega-nano", verb="lcm-lora", mixed_precision="bf16")
    with runs.fresh_accelerator_state(), TrainingRun(parser().parse_args(given)).accelerator.autocast():
        assert torch.is_autocast_enabled("cpu")
        assert not torch.is_autocast_cache_enabled()


@pytest.mark.soak
def test_zero_is_what_the_untrained_draws(tmp_path):
    """A run that can't learn ends with the base itself, which its score card says as well.

    In make test test_train_perceptual.py says it of the same card.
    """
    found = distil(tmp_path, from_prompts=True, learning_rate=0, steps=1, score_prompts=1)
    assert max(t.abs().max() for name, t in found.items() if "lora_up" in name) == 0
    scores = json.loads((tmp_path / "work" / "test" / "score-card.json").read_text())
    assert scores["students"]["1"] == scores["base"]
    assert scores["held out"]


def test_what_hardly_learned_loads_back(tmp_path, capsys):
    """Weights that fp16 has few digits for: they are not what was trained to the last digit, and no module is missed."""
    found = distil(tmp_path, learning_rate=2e-7, steps=1)
    assert 0 < max(t.abs().max() for name, t in found.items() if "lora_up" in name) < 1e-6
    assert "182 of 182 modules load back" in capsys.readouterr().out


def test_the_score_card(tmp_path, capsys):
    """A row for each number of steps that a run was ended at, against the teacher, and a contact sheet; no NaN in it."""
    distil(tmp_path, from_prompts=True, steps=1, score_prompts=8)
    distil(tmp_path, from_prompts=True, steps=2, score_prompts=8)
    folder = tmp_path / "work" / "test"
    table = (folder / "score-card.md").read_text()
    assert table in capsys.readouterr().out
    assert [line.split(" | ")[0] for line in table.splitlines()[2:5]] == [
        "| base alone",
        "| after 1 step",
        "| after 2 steps",
    ]
    assert "nan" not in table
    scores = json.loads((folder / "score-card.json").read_text())
    assert len(scores["prompts"]) == 1
    assert scores["prompts"][0] in PROMPTS
    with Image.open(folder / "score-card.png") as sheet:
        assert sheet.size == (score_card.MARGIN_PIXELS + 64, 5 * 64)
        assert np.asarray(sheet.crop((score_card.MARGIN_PIXELS, 0, *sheet.size))).std() > 10
    drawn = (folder / "score-card.png").stat().st_mtime_ns
    distil(tmp_path, from_prompts=True, steps=2, score_prompts=8)
    assert table in capsys.readouterr().out
    assert (folder / "score-card.png").stat().st_mtime_ns == drawn, "what is scored is not drawn again"


def test_samples_beside_the_teacher(tmp_path):
    distil(tmp_path, "vega-nano", "--sample-prompts", *PROMPTS[:2], steps=1, sample_every=1)
    with Image.open(tmp_path / "work" / "test" / "samples" / "000001.png") as sheet:
        assert sheet.size == (score_card.MARGIN_PIXELS + 2 * 64, 5 * 64)


def pipeline(base, **parts):
    """diffusers' own pipeline of the base, with the prompt's encoding and its convention for no prompt."""
    encoders, tokenizers = base.text_encoders(), base.tokenizers()
    scheduler = EulerDiscreteScheduler(**NOISE_SCHEDULE, timestep_spacing="leading")  # which takes any timesteps
    parts |= dict(vae=base.vae(), unet=base.unet(), scheduler=scheduler)
    parts |= dict(text_encoder=encoders[0], tokenizer=tokenizers[0])
    if base.is_xl:
        parts |= dict(text_encoder_2=encoders[1], tokenizer_2=tokenizers[1])
        pipe = StableDiffusionXLPipeline(**parts, add_watermarker=False)
    else:
        pipe = StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize(
    "family", ["Segmind-Vega", *(pytest.param(name, marks=pytest.mark.soak) for name in ("vega-nano", "SD 1.5"))]
)
def test_trajectories_end_where_the_pipeline_does(tmp_path, family):
    """From pure noise, guided, by the base's own convention for no prompt: the encoded empty one, zeros, the encoded one.

    Euler's steps for a model of the noise are DDIM's.
    """
    path = family
    if family != "vega-nano":
        path = str(tmp_path / "base")
        diffusers_folders.write(tmp_path / "base", family)
    distil(tmp_path, path, from_prompts=True, method="trajectories", steps=1, w_min=2, w_max=2)
    stored = load_file(tmp_path / "work" / "test" / "trajectories" / "00000.safetensors")
    base = open_base(path)
    zeros = {"force_zeros_for_empty_prompt": family == "Segmind-Vega"} if base.is_xl else {}
    pipe = pipeline(base, **zeros)
    at_noise = (stored["t"] == 999).nonzero()[:, 0]
    assert len(at_noise) == len(stored["end"]) == 3
    assert len(stored["t"].unique()) > 20, "each passes timesteps of its own"
    options = dict(device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
    encoded = [pipe.encode_prompt(prompt, **options)[0] for prompt in PROMPTS]
    for row in at_noise[1:]:  # one of the first that are drawn at once, and one of the others
        image = stored["picture"][row]
        timesteps = stored["t"][stored["picture"] == image].tolist()
        assert timesteps == [999, *range(timesteps[1], 0, -100)]
        assert timesteps[1] >= 899
        nearest = [(stored["context"][image] - context[0]).abs().max().item() for context in encoded]
        prompt = PROMPTS[int(np.argmin(nearest))]
        assert min(nearest) < 1e-4
        options = dict(width=64, height=64, timesteps=timesteps, guidance_scale=3.0, output_type="latent")
        expected = pipe(prompt, latents=stored["x"][row : row + 1], **options).images[0]
        torch.testing.assert_close(stored["end"][image], expected, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize(
    "family",
    [pytest.param(f, marks=[] if f in QUICK else pytest.mark.soak) for f in diffusers_folders.FAMILIES],
)
def test_every_family_loads_everywhere(tmp_path, family, capsys):
    """N of N in diffusers, in ComfyUI's own loader and in Apply LCM-LoRA, which refuses it on another base."""
    path = tmp_path / "base"
    unet = diffusers_folders.write(path, family)["unet"]
    distil(tmp_path, path, steps=1, batch_size=1, alpha=1)
    count = sum(name.endswith(LCM_TARGET_MODULES) for name, _ in unet.named_modules())
    assert f"{count} of {count} modules load back in diffusers" in capsys.readouterr().out
    assert count in lora.BASES
    file = tmp_path / "test.safetensors"
    with torch.inference_mode():
        assert host_modules(file, path) == (count, count, count)
        model, _, _ = checkpoint.load(path, "tiny", [])
        assert len(lora.apply(model, file, 1.0).patches) == count
        nano, _, _ = checkpoint.load(checkpoint.NANO_DIR, "tiny", [])
        with pytest.raises(ValueError, match=f"{count} modules"):
            lora.apply(nano, file, 1.0)


def refused(folder, *flags, **changed) -> str:
    return runs.refused(folder, "vega-nano", *flags, {"verb": "lcm-lora", **changed})


def test_bad_calls_get_one_sentence(run, tmp_path):
    given = prompts(tmp_path)
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "binary.txt").write_bytes(b"\x00\xff\xfe")
    runs.pictures(tmp_path / "pictures")
    for changed, words in (
        ({"prompts": None, "pictures": False}, "Give either"),
        ({"prompts": given, "pictures": True}, "Give either"),
        ({"prompts": tmp_path / "nowhere.txt"}, "nowhere.txt can't be used"),
        ({"prompts": tmp_path / "empty.txt"}, "is empty"),
        ({"prompts": tmp_path / "binary.txt"}, "binary.txt can't be used"),
        ({"prompts": given, "w_min": 9}, "--w-min 9 is more than --w-max 7.5"),
        ({"prompts": given, "name": "hyper-vega"}, "would be taken for Hyper"),
    ):
        said = refused(tmp_path, **changed)
        assert words in said
        assert "\n" not in said
    assert "method was consistency and is trajectories" in refused(run, method="trajectories")
    assert "pictures was" in refused(run, prompts=given)
    main(runs.arguments(run, verb="lcm-lora"))


def test_one_picture_and_a_file_without_autoencoder(tmp_path):
    """One prompt for all pictures will do. Prompts alone need an autoencoder for the score card, which is said at once."""
    single_files.write(tmp_path / "base.safetensors", "tiny-sd")
    said = runs.refused(
        tmp_path, tmp_path / "base.safetensors", {"verb": "lcm-lora", "prompts": prompts(tmp_path), "score_prompts": 1}
    )
    assert "holds no autoencoder: give one with --vae" in said
    assert not (tmp_path / "work" / "test").exists()
    diffusers_folders.write(tmp_path / "base", "tiny-sd")
    files.write(tmp_path / "pictures", {"a.png": files.png(1, (64, 64))})
    vae = tmp_path / "base" / "vae"
    given = dict(steps=1, batch_size=1, instance_prompt="a lake", mixed_precision="bf16", name="other", vae=vae)
    with runs.fresh_accelerator_state(), torch.enable_grad():
        main(runs.arguments(tmp_path, tmp_path / "base.safetensors", "--gradient-checkpointing", verb="lcm-lora", **given))
    assert all(tensor.isfinite().all() for tensor in runs.weights(tmp_path, "other").values())
