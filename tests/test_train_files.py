"""Files that training writes and tells from one another."""

import hashlib
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from train import adapters, files, loss_plot, trajectories
from train.cache import Cache, key_of

ROOT = Path(__file__).resolve().parents[1]
MIB = 2**20
WRITE = """
import sys
from pathlib import Path
from train.files import atomic_write

with atomic_write(Path(sys.argv[1])) as file:
    file.write_text("theirs")
    print("written", flush=True)
    sys.stdin.readline()
"""


def test_what_a_killed_process_left_is_removed(tmp_path):
    """And not what another one may be writing, nor what belongs to another file."""
    old, new = tmp_path / "a[1].safetensors.7.partial", tmp_path / "a[1].safetensors.8.partial"
    others = [tmp_path / "b.safetensors.7.partial", tmp_path / "a[1].safetensors"]
    for file in (old / "unet.safetensors", new / "unet.safetensors", *others):
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"half")
    for path in (old, old / "unet.safetensors", new, *others):
        os.utime(path, (0, 0))
    files.remove_leftovers(tmp_path / "a[1].safetensors")
    assert set(tmp_path.iterdir()) == {new, *others}


def test_two_processes_write_one_file(tmp_path):
    """Each its own, of which the last one stays: two runs that share a cache make no mixture of theirs."""
    file = tmp_path / "file"
    with files.atomic_write(file) as mine:
        mine.write_text("mine")
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        with subprocess.Popen([sys.executable, "-c", WRITE, str(file)], cwd=ROOT, **pipes) as other:
            assert other.stdout.readline() == "written\n"
            assert mine.read_text() == "mine"
            other.communicate("\n")
        assert file.read_text() == "theirs"
    assert file.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [file]


def test_a_part_that_was_replaced_is_seen(tmp_path):
    """An autoencoder amid a checkpoint changes neither its size nor its ends."""
    checkpoint = tmp_path / "model.safetensors"
    with checkpoint.open("wb") as stream:
        stream.truncate(128 * MIB)
    before = files.sampled_fingerprint([checkpoint])
    assert files.sampled_fingerprint([checkpoint]) == before
    with checkpoint.open("r+b") as stream:
        stream.seek(70 * MIB)
        stream.write(b"\1" * MIB)
    assert files.sampled_fingerprint([checkpoint]) != before


def test_every_name_has_a_key():
    """Also one that is no UTF-8; the others have the key that they had."""
    assert key_of("\udce9.png", 1) != key_of("\udce8.png", 1)
    assert key_of("\u00e9", 1) == hashlib.sha256(b"\xc3\xa9\x001").hexdigest()


@contextmanager
def room(count: int):
    """Within it the system lets no file become larger than so many bytes."""
    resource = pytest.importorskip("resource", reason="Windows has no such limit")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    "write",
    [
        lambda file, tensors: Cache(file.parent).save(file.stem, tensors),
        lambda file, tensors: trajectories.write(file, 0, lambda: tensors),
        lambda file, tensors: adapters.save(tensors, file, {}),
        lambda file, tensors: loss_plot.write(file, tensors["noise"].tolist()),
    ],
    ids=["cache", "trajectories", "lora", "plot"],
)
def test_a_full_disk_is_a_sentence(tmp_path, write):
    """Whatever is written, by safetensors or by Pillow; nothing of it stays."""
    tensors = {"noise": torch.rand(2**18, generator=torch.Generator().manual_seed(0))}
    with room(4096), pytest.raises(OSError, match=r"can't be written \(.*large.*\)\. Make room"):
        write(tmp_path / "file.safetensors", tensors)
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]
    write(tmp_path / "file.safetensors", tensors)
    assert len([file for file in tmp_path.rglob("*") if file.is_file()]) == 1
