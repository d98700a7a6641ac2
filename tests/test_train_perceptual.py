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
    """Of RGB in -1..1 from the package's own reader of files, a pair at a time, also amid a run in half precision."""
    images, others = pictures(1), pictures(2)
    network = lpips.LPIPS(net="alex", verbose=False)
    arrays = [[lpips.im2tensor(torch.asarray(list(image.getdata())).view(72, 96, 3).numpy()) for image in two]
              for two in zip(images, others, strict=True)]  # fmt: skip
    with torch.no_grad():
        expected = [network(*pair).item() for pair in arrays]
    with torch.autocast("cpu", torch.bfloat16):
        found = perceptual_distance.load_lpips(torch.device("cpu"))(images, others)
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    assert found.min() > 0.01


def test_without_the_weights_it_says_so(tmp_path, monkeypatch, capsys):
    """And downloads nothing."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert perceptual_distance.load_lpips(torch.device("cpu")) is None
    assert f"not {tmp_path / 'hub' / 'checkpoints' / perceptual_distance.ALEXNET}" in capsys.readouterr().out


def test_a_damaged_file_is_named(alexnet):
    for data in (b"", b"<html>not found</html>", alexnet.read_bytes()[:1000]):
        alexnet.write_bytes(data)
        with pytest.raises(ValueError, match=f"Download {alexnet} again"):
            perceptual_distance.load_lpips(torch.device("cpu"))


def test_each_is_compared_with_the_teacher():
    """The mean of each one's errors, with half of its 95 % interval, in its own cell."""
    errors = {name: torch.tensor([float(k), k + 2.0]) for k, name in enumerate(score_card.COMPARED)}
    found = score_card.compare(errors.__getitem__)
    means = [found["other seeds"], *found["student"].values(), *found["base"].values()]
    assert [mean for mean, _ in means] == [k + 1.0 for k in range(9)]
    assert [margin for _, margin in means] == pytest.approx([1.96] * 9)
    assert [*found["student"]] == [*found["base"]] == ["1", "2", "4", "8"]


def test_the_score_card_has_its_table(tmp_path, alexnet, monkeypatch):
    """Also one that was written before AlexNet was there. A student that learned nothing is as far away as the base."""
    monkeypatch.setattr(score_card, "TEACHER_STEPS", 3)
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    given = {"prompts": str(tmp_path / "prompts.txt"), "learning_rate": 0, "steps": 1, "score_prompts": 1}
    card = tmp_path / "work" / "test" / "score-card.json"
    weights = alexnet.read_bytes()
    for is_there in (False, True):
        alexnet.write_bytes(weights) if is_there else alexnet.unlink()
        with torch.enable_grad():
            main(runs.arguments(tmp_path, "vega-nano", verb="lcm-lora", **given))
        scores = json.loads(card.read_text())
        assert ("LPIPS" in scores) == is_there
    found = scores["LPIPS"]
    assert found["students"]["1"] == found["base"]
    assert all(0 < mean != latents for (mean, _), (latents, _) in zip(cells(found), cells(scores), strict=True))
    table = card.with_suffix(".md").read_text()
    assert table.count("| base alone |") == 2
    assert "LPIPS of the same pictures" in table


def cells(scores: dict) -> list:
    return [*scores["base"].values(), scores["other seeds"]]
