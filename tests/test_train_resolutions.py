"""Runs at several resolutions: each picture, or each prompt, is learned at each of them."""

import pytest
import training_files as files
import training_runs as runs

from train import prompts
from train.__main__ import main
from train.nano import picture_folder

pytestmark = pytest.mark.model


@pytest.mark.parametrize("verb", ["lora", "finetune"])
def test_pictures_are_learned_at_each(tmp_path, monkeypatch, verb):
    """An epoch of four pictures in batches of two. Class pictures stay at the resolution that they were drawn at."""
    batches = runs.objective_batches(tmp_path, monkeypatch, verb, "--more-resolutions=128", steps=4)
    pictures, classes = (batches[::2], batches[1::2]) if verb == "lora" else (batches, [])
    of_64, wide, square = [(8, 8), (8, 8)], (12, 20), (16, 16)
    assert sorted(tuple(batch.latents.shape[2:]) for batch in pictures) == [*of_64, wide, square]
    assert {tuple(batch.latents.shape[2:]) for batch in classes} <= {(8, 8)}
    for batch in pictures:
        height, width = (8 * cells for cells in batch.latents.shape[2:])
        assert batch.time_ids[:, 4:].tolist() == [[height, width]] * 2


def test_prompts_are_drawn_at_each(tmp_path, monkeypatch):
    sides, prompt_batches = [], prompts.PromptBatches

    def noting(captions, texts, batch_size, drawn_at, *given):
        sides.extend(drawn_at)
        return prompt_batches(captions, texts, batch_size, drawn_at, *given)

    monkeypatch.setattr(prompts, "PromptBatches", noting)
    files.write(tmp_path, {"prompts.txt": "a lake\na city\n"})
    given = {"prompts": tmp_path / "prompts.txt", "method": "trajectories", "steps": 1}
    main(runs.arguments(tmp_path, "vega-nano", "--more-resolutions=96", verb="lcm-lora", **given))
    assert sides == [64, 96]


def test_their_order_makes_no_other_run(tmp_path):
    runs.pictures(tmp_path / "pictures")
    main(runs.arguments(tmp_path, "vega-nano", "--more-resolutions", "128", "96", steps=1))
    main(runs.arguments(tmp_path, "vega-nano", "--more-resolutions", "96", "128", steps=1))
    assert "more_resolutions was [96, 128] and is [96]" in runs.refused(tmp_path, "vega-nano", "--more-resolutions=96", {})


@pytest.mark.parametrize("more", [64, 70])
def test_the_same_square_twice_is_refused(tmp_path, more):
    runs.pictures(tmp_path / "pictures")
    said = runs.refused(tmp_path, "vega-nano", f"--more-resolutions={more}", {})
    assert f"64 x 64 pixels both at 64 and at {more}: leave {more} out of --more-resolutions" in said
    assert not (tmp_path / "work").exists()


def test_vega_nanos_drawings_are_large_enough(tmp_path, capsys):
    """At the resolutions that its card trains at, from 128 to 320 on a side."""
    picture_folder.write(tmp_path, len(picture_folder.SHAPES))
    main(["inspect", str(tmp_path), "--resolution=256", "--more-resolutions", "128", "192", "320"])
    printed = capsys.readouterr().out
    count = len(picture_folder.SHAPES)
    assert f"{count} pictures, {count} with repeats; 0 left out\ncaptions: .txt x {count}\n" in printed
    assert f"buckets of 320 pixels: 320x320 x {count // 2}, " in printed
    assert "note:" not in printed
