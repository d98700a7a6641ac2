"""LPIPS in the score card: by the package itself, on AlexNet of random weights in the file that torchvision looks for."""

import json

import lpips
import pytest
import torch
import torchvision
import training_runs as runs
from PIL import Image

from train import perceptual_distance, score_card
from train.__main__ import main

PROMPTS = [f"{time} over a {place}" for time in ("night", "dawn", "sunset", "day") for place in ("lake", "city")]


@pytest.fixture
def alexnet(tmp_path, monkeypatch):
    """Its file, in a cache of torch's own."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    file = tmp_path / "torch" / "hub" / "checkpoints" / perceptual_distance.ALEXNET
    file.parent.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(torchvision.models.alexnet().state_dict(), file)
    return file


def pictures(seed: int) -> list[Image.Image]:
    noise = torch.randint(0, 256, (2, 72, 96, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return [Image.fromarray(each.numpy()) for each in noise]


def test_it_is_the_package_s_own(alexnet):
    """Of RGB in -1..1 from the package's own reader of files, a pair at a time."""
    images, others = pictures(1), pictures(2)
    network = lpips.LPIPS(net="alex", verbose=False)
    arrays = [[lpips.im2tensor(torch.asarray(list(image.getdata())).view(72, 96, 3).numpy()) for image in two]
              for two in zip(images, others, strict=True)]  # fmt: skip
    with torch.no_grad():
        expected = [network(*pair).item() for pair in arrays]
    found = perceptual_distance.load_lpips(torch.device("cpu"))(images, others)
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    assert found.min() > 0.01


def test_without_the_weights_it_says_so(tmp_path, monkeypatch, capsys):
    """And downloads nothing."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert perceptual_distance.load_lpips(torch.device("cpu")) is None
    assert f"not {tmp_path / 'hub' / 'checkpoints' / perceptual_distance.ALEXNET}" in capsys.readouterr().out


def test_the_score_card_has_its_table(tmp_path, alexnet, monkeypatch):
    """A student that learned nothing is as far from its teacher as the base; another seed's picture is far as well."""
    monkeypatch.setattr(score_card, "TEACHER_STEPS", 3)
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    given = {"prompts": str(tmp_path / "prompts.txt"), "learning_rate": 0, "steps": 1, "score_prompts": 1}
    with torch.enable_grad():
        main(runs.arguments(tmp_path, "vega-nano", verb="lcm-lora", **given))
    folder = tmp_path / "work" / "test"
    scores = json.loads((folder / "score-card.json").read_text())["LPIPS"]
    assert scores["students"]["1"] == scores["base"]
    assert min(mean for mean, _ in [*scores["base"].values(), scores["other seeds"]]) > 0
    table = (folder / "score-card.md").read_text()
    assert table.count("| base alone |") == 2
    assert "LPIPS of the same pictures" in table
