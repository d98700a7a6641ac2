"""The whole training chain at a size that takes a few minutes: every stage learns, and what it exports loads and draws."""

import random
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from nano_stages import arguments, command, environment, here
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from train.nano import evaluation, latents
from train.nano.__main__ import main
from train.nano.export import LORA

ROOT = Path(__file__).resolve().parents[1]
# The most that a stage's mean loss over its last tenth (at least three steps) may be, as a share of the first tenth's.
LEARNS = {
    "autoencoder": 0.5,
    "text-encoders": 0.8,
    "sharpening": 0.95,
    "base": 0.3,
    "direct": 0.9,
    "lcm-lora": 0.9,
    "classifier": 0.85,
}


@pytest.fixture(scope="module")
def few_rows():
    """An evaluation with some of its rows: two guidance scales to choose from, and one size of each shape."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "GUIDANCE_SCALES", evaluation.GUIDANCE_SCALES[:2])
        patch.setattr(evaluation, "OTHER_SIZES", ((128, 128), (192, 128), (128, 192)))
        yield


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """(folder, what is printed while folder/nano is made, seconds that it takes)."""
    folder = tmp_path_factory.mktemp("train")
    began = time.monotonic()
    printed = here(folder, prompts=0)
    return folder, printed, time.monotonic() - began


@pytest.fixture(scope="module")
def evaluated(chain, few_rows):
    """The chain's folder, with the scores of what it made."""
    here(chain[0], "evaluation")
    return chain[0]


@pytest.fixture(scope="module")
def pipe(chain):
    from diffusers import StableDiffusionXLPipeline

    pipe = StableDiffusionXLPipeline.from_pretrained(chain[0] / "nano", add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def losses(stage: str, printed: str) -> tuple[float, float]:
    """A stage's first and last."""
    first, last = re.search(rf"^{stage}: loss (\S+) -> (\S+)", printed, re.MULTILINE).groups()
    return float(first), float(last)


@pytest.mark.parametrize("stage", LEARNS)
def test_stage_lowers_its_loss(chain, stage):
    first, last = losses(stage, chain[1])
    assert last < LEARNS[stage] * first


def test_shares_of_the_sizes_make_a_whole():
    assert sum(latents.SIZES.values()) == pytest.approx(1)


@pytest.mark.soak
def test_the_other_route_lowers_its_loss(chain):
    for stage in ("teacher", "student"):
        first, last = losses(stage, here(chain[0], stage))
        assert last < 0.9 * first


@pytest.mark.parametrize("result", ["autoencoder", "autoencoder-sharp", "base", "direct", "lcm-lora"])
def test_stage_shows_what_it_has_learned(chain, result):
    with Image.open(chain[0] / "work" / f"{result}.png") as sheet:
        assert sheet.width > 256
        assert all(high - low > 20 for low, high in sheet.getextrema())


def test_finished_stages_are_not_run_again(chain):
    assert "loss" not in here(chain[0], prompts=0)


def test_training_goes_on_from_a_model(chain, tmp_path):
    """What there is of it stands for the first stages' results, and is drawn at this code's size."""
    printed = here(tmp_path, "sharpening", start=chain[0] / "nano")
    assert "sharpening: loss" in printed
    assert UNet2DConditionModel.load_config(tmp_path / "work" / "base")["sample_size"] == 32
    for stage in ("autoencoder", "text_encoder", "text_encoder_2"):
        (made,) = (tmp_path / "work" / stage).glob("*.safetensors")
        part = "vae" if stage == "autoencoder" else stage
        (given,) = (chain[0] / "nano" / part).glob("*.safetensors")
        assert all(torch.equal(tensor.float(), load_file(made)[name]) for name, tensor in load_file(given).items())
    assert (tmp_path / "work" / "initial-lcm-lora.safetensors").read_bytes() == (chain[0] / "nano" / LORA).read_bytes()


@pytest.mark.soak
def test_weights_of_another_route_are_refused(chain, capsys):
    """Weights of another route are not taken for those that are asked for."""
    with pytest.raises(SystemExit, match=r"unet is not \S+student"):
        main([*arguments(chain[0]), "--route=block-removal"])
    assert "exported" not in capsys.readouterr().out


@pytest.mark.soak
def test_card_holds_the_grid_and_the_scores(evaluated):
    readme = evaluated / "nano" / "README.md"
    readme.write_text("before\n<!-- scores -->\nold\n<!-- end of scores -->\nafter\n")
    here(evaluated, "card")
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert "| LCM-LoRA, 4 steps |" in text
    with Image.open(evaluated / "nano" / "samples.jpg") as samples:
        assert samples.width > 8 * 256
        assert samples.height == 6 * 256


def refused(capsys, *arguments: str) -> str:
    """The sentence with which `python -m train.nano` refuses the arguments."""
    with pytest.raises(SystemExit) as exit_:
        main(list(arguments))
    return f"{capsys.readouterr().err}{exit_.value}"


@pytest.mark.parametrize(
    ("stage", "lacks"),
    [
        ("base", "sharpening"),
        ("unet", "direct"),
        ("export", "text-encoders"),
        ("evaluation", "export"),
        ("card", "export"),
    ],
)
def test_stage_says_what_it_lacks(tmp_path, capsys, stage, lacks):
    said = refused(capsys, stage, f"--work={tmp_path / 'work'}", f"--out={tmp_path / 'nano'}")
    assert f"{stage} needs" in said
    assert f"`python -m train.nano {lacks}`" in said


def test_card_needs_scores(chain, tmp_path, capsys):
    assert "`python -m train.nano evaluation`" in refused(capsys, "card", f"--work={tmp_path}", f"--out={chain[0] / 'nano'}")


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("--classifier-steps=0", "0 is less than 1"),
        ("--pictures=-5", "-5 is less than 1"),
        ("--prompts=1", "1 is less than 2"),
        ("--prompts=many", "invalid"),
        ("--work=Makefile", "Makefile is a file"),
        ("--out=Makefile", "Makefile is a file"),
        ("--start=Makefile", "Makefile is no diffusers folder"),
    ],
)
def test_argument_that_cannot_work_is_refused(monkeypatch, capsys, argument, reason):
    monkeypatch.chdir(ROOT)
    assert reason in refused(capsys, argument)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("changed", "stale"), [("vae/diffusion_pytorch_model.safetensors", (True, False)), (str(LORA), (True,))]
)
def test_rows_of_other_weights_are_not_taken_for_ours(evaluated, changed, stale):
    """Nor are those drawn with another LoRA; what was drawn without any stays."""
    nano, work = evaluated / "nano", evaluated / "work"
    file = nano / changed
    before = file.read_bytes()

    def kept(prompts=2):
        return {lora: any(folder.glob("*")) for lora, folder in evaluation.row_folders(nano, work, prompts).items()}

    assert kept() == {True: True, False: True}
    assert kept(prompts=3) == {True: False, False: False}
    weights = load_file(file)
    weights[min(weights)] += 0.1
    try:
        save_file(weights, file, metadata={"format": "pt"})
        assert kept() == {lora: lora not in stale for lora in (True, False)}
    finally:
        file.write_bytes(before)
    assert kept() == {True: True, False: True}


QUIET = dict(cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def run_killed(command: list[str], is_time: Callable[[], bool]) -> None:
    """Starts the command in a process of its own, and kills it when it is time, unless it has ended before."""
    process = subprocess.Popen(command, env=environment(), **QUIET)
    while process.poll() is None and not is_time():
        time.sleep(0.02)
    process.kill()
    process.wait()


def run_to_its_end(command: list[str]) -> None:
    assert subprocess.run(command, env=environment(), timeout=900, **QUIET).returncode == 0


def assert_same_files(one: Path, other: Path, pattern: str, count: int) -> None:
    files = sorted(f.relative_to(one) for f in one.rglob(pattern))
    assert len(files) == count
    for file in files:
        assert (other / file).read_bytes() == (one / file).read_bytes(), f"{file} differs"


@pytest.mark.soak
def test_a_stage_that_was_killed_ends_with_the_same_weights(chain, tmp_path):
    saved = tmp_path / "work" / "autoencoder-training" / "latest"
    run_killed(command(tmp_path, "autoencoder"), saved.exists)
    assert saved.exists()
    assert not (tmp_path / "work" / "autoencoder").exists()
    run_to_its_end(command(tmp_path, "autoencoder"))
    assert_same_files(chain[0] / "work" / "autoencoder", tmp_path / "work" / "autoencoder", "*.safetensors", 1)


@pytest.mark.soak
def test_killed_three_times_it_ends_with_the_same_weights(chain, tmp_path):
    for _ in range(3):
        end = time.monotonic() + 0.3 * chain[2] * random.uniform(0.5, 1.0)
        run_killed(command(tmp_path, prompts=0), lambda end=end: time.monotonic() > end)
    run_to_its_end(command(tmp_path, prompts=0))
    assert_same_files(chain[0] / "nano", tmp_path / "nano", "*.safetensors", 6)


def test_every_file_fits_a_repository(chain):
    files = [f for f in (chain[0] / "nano").rglob("*") if f.is_file()]
    assert files
    assert all(f.stat().st_size < 16 * 2**20 for f in files)
    # An export must not carry the paths of the machine that made it.
    assert all(str(chain[0]) not in f.read_text() for f in files if f.suffix == ".json")


def test_words_never_trained_on_are_zero(pipe):
    for tokenizer, encoder in ((pipe.tokenizer, pipe.text_encoder), (pipe.tokenizer_2, pipe.text_encoder_2)):
        table = encoder.get_input_embeddings().weight
        unknown, known = (tokenizer(word).input_ids[1] for word in ("helicopter", "mountains"))
        assert table[unknown].abs().max() == 0
        assert table[known].abs().max() > 0


def test_pipeline_pools_the_first_end_of_text(pipe):
    # Encoder 1's padding is the end token too, so taking the last one would pool padding.
    ids = torch.tensor([pipe.tokenizer("a lake").input_ids])
    padded = torch.cat([ids, torch.full((1, 77 - ids.shape[1]), pipe.tokenizer.eos_token_id)], dim=1)
    with torch.no_grad():
        short, long = (pipe.text_encoder_2(i).text_embeds for i in (ids, padded))
    torch.testing.assert_close(short, long, atol=1e-5, rtol=1e-5)


def test_exported_pipeline_draws_with_every_lora_module(chain, pipe):
    from diffusers import LCMScheduler
    from peft.tuners.tuners_utils import BaseTunerLayer

    def draw():
        generator = torch.Generator("cpu").manual_seed(0)
        return pipe("a lake", num_inference_steps=2, guidance_scale=1.0, generator=generator, output_type="pt").images

    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    plain = draw()
    lora = chain[0] / "nano" / "lcm-lora" / "pytorch_lora_weights.safetensors"
    with safe_open(lora, "pt") as file:
        alphas = [key for key in file.keys() if key.endswith(".alpha")]  # noqa: SIM118
    pipe.load_lora_weights(lora.parent, weight_name=lora.name)
    assert sum(isinstance(m, BaseTunerLayer) for m in pipe.unet.modules()) == len(alphas) > 100
    adapted = draw()
    assert plain.shape == adapted.shape == (1, 3, 256, 256)
    assert torch.isfinite(adapted).all()
    assert not torch.equal(plain, adapted)
