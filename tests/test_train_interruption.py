"""A signal while training: whatever torch makes of it, the run says that it was interrupted."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# The signal comes where torch asks an object for its first item, and takes any error of it for its own.
RUN = """
import signal, torch
from argparse import Namespace
from train import __main__, interruption

class Sequence:
    def __len__(self):
        return 1
    def __getitem__(self, k):
        signal.raise_signal(signal.{signal})
        return 0

interruption.interrupt_by_any_signal()
__main__.parser = lambda: Namespace(parse_args=lambda _: Namespace(run=lambda _: {run}))
__main__.main()
"""


def ended(run: str, signal: str = "SIGINT") -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", RUN.format(run=run, signal=signal)], cwd=ROOT, capture_output=True, text=True
    )
    return done.returncode, done.stderr


IN_TORCH, IN_PYTHON = "torch.asarray(Sequence())", "Sequence()[0]"


@pytest.mark.parametrize(
    ("run", "signal"),
    [(IN_TORCH, "SIGTERM"), (IN_PYTHON, "SIGINT")]
    + [pytest.param(*case, marks=pytest.mark.soak) for case in ((IN_TORCH, "SIGINT"), (IN_PYTHON, "SIGTERM"))],
)
def test_it_is_an_interruption(run, signal):
    assert ended(run, signal) == (130, "Interrupted. What is done is kept: the same command goes on.\n")


def test_without_a_signal_errors_are_what_they_are():
    """What a person can mend is a sentence, all else has its traceback."""
    status, said = ended("int('many')")
    assert status == 1
    assert said.startswith("invalid literal for int()")
    status, said = ended("torch.no_such_thing")
    assert status == 1
    assert "Traceback" in said and said.endswith("has no attribute 'no_such_thing'\n")
