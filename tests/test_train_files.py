"""Files that training writes and tells from one another."""

import subprocess
import sys
from pathlib import Path

from train import files

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
