"""Which embedding files /v1 takes: those that the host itself puts into every encoder of the model, and no others."""

import asyncio
import logging
import threading

import folder_paths
import pytest
import torch
from safetensors.torch import save_file
from vega_pack.api import embeddings
from vega_pack.nodes import model_lists
from vega_pack.vega import checkpoint, encoder_files, hidden_sizes, single_file, text_encoders

from dev import diffusers_folders as folders
from dev import single_files

WIDTH = 64  # of both encoders of vega-nano


def vectors(width=WIDTH, rows=2, **changes) -> torch.Tensor:
    made = torch.randn(rows, width, generator=torch.Generator().manual_seed(rows * width)) * 0.1
    return made * changes.get("times", 1)


def with_one(value: float) -> torch.Tensor:
    made = vectors()
    made[1, 5] = value
    return made


class Text(torch.nn.Module):
    """Anything but weights: what no reader of plain weights takes."""


BOTH = {"clip_l": vectors(), "clip_g": vectors()}
USED = {
    "both.safetensors": BOTH,
    "of other lengths.safetensors": {"clip_l": vectors(rows=3), "clip_g": vectors()},
    "half.safetensors": {key: tensor.half() for key, tensor in BOTH.items()},
    "bfloat16.safetensors": {key: tensor.bfloat16() for key, tensor in BOTH.items()},
    "emb_params.safetensors": {"emb_params": vectors()},
    "plain.safetensors": {"a style": vectors()},
    "one vector.safetensors": {"emb_params": vectors()[0]},
    "many.safetensors": {"emb_params": vectors(rows=90)},
    "a matrix each.safetensors": {"emb_params": vectors()[:, None]},
    "string_to_param.pt": {"string_to_token": {"*": 265}, "string_to_param": {"*": vectors()}, "name": "a"},
    "dictionary.bin": {"<a-style>": vectors()},
    "bundle.safetensors": {"bundle_emb.a.string_to_param.*": vectors(), "lora_unet_x": vectors(8)},
    "bundle of both.safetensors": {"bundle_emb.a.clip_l": vectors(), "bundle_emb.a.clip_g": vectors()},
}
UNUSABLE = {
    "narrow.safetensors": {"clip_l": vectors(8), "clip_g": vectors(8)},
    "narrow g.safetensors": {"clip_l": vectors(), "clip_g": vectors(8)},
    "narrow l.safetensors": {"clip_l": vectors(8), "clip_g": vectors()},
    "only l.safetensors": {"a": vectors(8), "clip_l": vectors()},  # for clip_g the host takes the first
    "of SD 1.5.pt": {"string_to_param": {"*": vectors(768)}},
    "NaN in g.safetensors": {"clip_l": vectors(), "clip_g": with_one(float("nan"))},
    "inf in l.safetensors": {"clip_l": with_one(float("inf")), "clip_g": vectors()},
    "beyond fp16.safetensors": {"clip_l": with_one(-1e6), "clip_g": vectors()},
    "NaN.pt": {"string_to_param": {"*": with_one(float("nan"))}},
    "empty g.safetensors": {"clip_l": vectors(), "clip_g": vectors(rows=0)},
    "no values.safetensors": {"emb_params": torch.zeros(0)},
    "a number.safetensors": {"emb_params": torch.tensor(1.0)},
    "matrices.safetensors": {"emb_params": vectors(rows=80).reshape(2, 40, WIDTH)},
    "no tensors.safetensors": {},
    "a list.pt": [{"a": vectors()}],  # of which the host takes what is 768 or 1280 wide
    "no param.pt": {"string_to_param": {}},
    "text.pt": {"emb_params": "words"},
    "module.pt": {"emb_params": Text()},
    "cut.safetensors": None,
    "cut.pt": None,
    "absent.pt": ...,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embeddings")
    for name, content in {**USED, **UNUSABLE}.items():
        if content is None:
            (folder / name).write_bytes(b"\x08\0\0\0\0\0\0\0{}")
        elif name.endswith(".safetensors"):
            save_file({key: tensor.contiguous().clone() for key, tensor in content.items()}, folder / name)
        elif content is not ...:
            torch.save(content, folder / name)
    before = folder_paths.folder_names_and_paths["embeddings"]
    folder_paths.folder_names_and_paths["embeddings"] = ([str(folder)], before[1])
    yield folder
    folder_paths.folder_names_and_paths["embeddings"] = before


@pytest.fixture(scope="module")
def clip(folder, inference):
    return checkpoint.load(checkpoint.NANO_DIR, "tiny", [str(folder)])[1]


def context(clip, name: str | None) -> torch.Tensor:
    # The tokenizer takes no spaces in a name.
    return clip.encode_from_tokens(clip.tokenize(f"night, {f'embedding:{name}' if name else ''} desert"))


def as_the_host_has_it(clip, name: str, caplog) -> bool:
    """Whether it changes what every encoder makes of the prompt, without an error, a warning or a value that is none."""
    caplog.clear()
    try:
        found = context(clip, name)
    except Exception:
        return False
    without = context(clip, None)
    moved = (found[:, : without.shape[1]] != without).any(0).any(0)
    warned = [record for record in caplog.records if record.levelno >= logging.WARNING]
    return bool(found.isfinite().all() and moved[:WIDTH].any() and moved[WIDTH:].any() and not warned)


@pytest.mark.model
@pytest.mark.parametrize("name", [*USED, *UNUSABLE])
def test_what_the_host_uses_is_taken_and_nothing_else(clip, folder, name, caplog):
    plain = name.replace(" ", "_")
    if (folder / name).is_file():
        (folder / name).rename(folder / plain)
    why = embeddings.find_file_error([plain.rpartition(".")[0]], model_lists.EMBEDDED_MODEL)
    assert (why is None) == (name in USED), why
    if name != "beyond fp16.safetensors":  # on this machine the encoders may compute in fp32
        assert as_the_host_has_it(clip, plain, caplog) == (name in USED)
    if name in ("narrow.safetensors", "narrow_l.safetensors"):
        assert "vectors of 8 values for clip_l, and this model takes 64" in why


@pytest.mark.model
@pytest.mark.parametrize(
    ("family", "expected"), [("Segmind-Vega", {"clip_l": 64, "clip_g": 64}), ("small-sd", {"clip_l": 64})]
)
def test_widths_are_those_of_the_loaded_encoders(tmp_path, family, expected):
    """The widths that a model's files tell are those of the encoders that are loaded."""
    folders.write(tmp_path / "folder", family)
    single_files.write(tmp_path / "file.safetensors", family)
    file = tmp_path / "file.safetensors"
    loaded = {tmp_path / "folder": encoder_files.from_folder(tmp_path / "folder")}
    loaded[file] = text_encoders.from_file(file, single_file.read(file))
    for path, encoders in loaded.items():
        assert hidden_sizes.of_text_encoders(path) == expected == {name: encoder.width for name, encoder in encoders.items()}
    assert hidden_sizes.of_text_encoders(checkpoint.NANO_DIR) == {"clip_l": WIDTH, "clip_g": WIDTH}


def test_files_on_a_drive_that_hangs_hold_up_nothing_else(monkeypatch):
    """Neither the event loop nor the threads of other work, of which there are few."""
    drive = threading.Event()

    def hanging() -> list[str]:
        drive.wait()
        return []

    async def scene():
        names = [embeddings.file_error(["a"], model_lists.EMBEDDED_MODEL) for _ in range(64)]
        checks = [asyncio.create_task(check) for check in names]
        await asyncio.gather(*(asyncio.to_thread(int) for _ in range(64)))
        assert not any(check.done() for check in checks)
        drive.set()
        assert all("no file" in why for why in await asyncio.gather(*checks))

    monkeypatch.setattr(model_lists, "embedding_folders", hanging)
    asyncio.run(scene())
