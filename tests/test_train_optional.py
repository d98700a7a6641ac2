"""What training takes in where it is installed: bitsandbytes' AdamW and accelerate's trackers, by their real packages."""

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest
import training_runs as runs
from foreign_packages import by_pip

from train.__main__ import main

# pip would bring torch once more for the one, and another numpy for the other.
BITSANDBYTES = ("--no-deps", "bitsandbytes==0.50.2")
TENSORBOARD = ("--no-deps", "tensorboard==2.21.0", "tensorboard-data-server", "absl-py", "markdown", "werkzeug", "grpcio")
READ = """
import sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
found = EventAccumulator(sys.argv[1]).Reload()
print([[event.step, event.value] for event in found.Scalars("loss")])
"""


def run(folder, *flags, environment, **changed) -> tuple[int, str]:
    runs.pictures(folder / "pictures")
    given = [*runs.arguments(folder, **changed), *flags]
    done = subprocess.run(
        [sys.executable, "-m", "train", *given],
        cwd=runs.ROOT,
        capture_output=True,
        text=True,
        env={**runs.environment(), "PYTHONPATH": environment["PYTHONPATH"]},
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.model
@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_8bit_adam_is_refused_at_once(tmp_path):
    """Before anything is encoded or drawn."""
    runs.pictures(tmp_path / "pictures")
    with pytest.raises(SystemExit, match="^--use-8bit-adam needs bitsandbytes: pip install bitsandbytes, or leave it out.$"):
        main(runs.arguments(tmp_path, "vega-nano", "--use-8bit-adam"))
    assert not (tmp_path / "work").exists()


@pytest.mark.model
@pytest.mark.skipif(find_spec("tensorboard") is not None, reason="tensorboard is installed")
def test_a_tracker_is_refused_at_once(tmp_path):
    runs.pictures(tmp_path / "pictures")
    assert "pip install tensorboard" in runs.refused(tmp_path, {"report_to": "tensorboard"})
    assert not (tmp_path / "work").exists()


@pytest.mark.model
@pytest.mark.soak
def test_8bit_adam_trains(tmp_path):
    environment = by_pip(tmp_path / "packages", *BITSANDBYTES)
    status, printed = run(tmp_path, "--use-8bit-adam", environment=environment)
    assert status == 0, printed
    assert max(t.abs().max() for name, t in runs.weights(tmp_path).items() if "lora_up" in name) > 0


@pytest.mark.model
@pytest.mark.soak
def test_tensorboard_is_told_every_loss(tmp_path):
    environment = by_pip(tmp_path / "packages", *TENSORBOARD)
    status, printed = run(tmp_path, environment=environment, report_to="tensorboard")
    assert status == 0, printed
    work = tmp_path / "work" / "test"
    command = [sys.executable, "-c", READ, str(work / "test")]
    read = subprocess.run(command, capture_output=True, text=True, env={**runs.environment(), **environment})
    assert read.returncode == 0, read.stderr
    losses = json.loads((work / "training" / "4" / "losses.json").read_text())
    assert json.loads(read.stdout) == [[step, pytest.approx(loss, rel=1e-6)] for step, loss in enumerate(losses, 1)]
