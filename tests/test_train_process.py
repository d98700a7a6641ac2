"""The process that the nodes that train start: its command line, what it ends with, and when it ends by itself."""

import subprocess
import sys
from pathlib import Path

import pytest
import training_runs as runs
from vega_pack.nodes import training_folders, training_inputs, training_process
from vega_pack.vega import file_names

from train.__main__ import parser


def test_missing_packages_are_named():
    """With the command for the Python that runs ComfyUI."""
    said = training_inputs.missing((*training_inputs.PACKAGES, "no_such_package"))
    assert f'"{sys.executable}" -m pip install accelerate peft' in said
    assert training_inputs.missing(training_inputs.PACKAGES) is None


def test_no_prompt_becomes_an_option():
    options = {"name": "--help", "rank": 4, "class_prompt": ["--work=elsewhere", "a -- b"], "sample_prompts": []}
    options |= {"overwrite": False, "random_flip": True, "resolution": None, "instance_prompt": "-v"}
    chosen = parser().parse_args(["lora", "vega-nano", "pictures", *training_process.command_line(options)])
    assert (chosen.name, chosen.instance_prompt, chosen.work) == ("--help", "-v", Path("vega-training"))
    assert chosen.class_prompt == ["--work=elsewhere", "a -- b"]
    assert (chosen.sample_prompts, chosen.overwrite, chosen.random_flip, chosen.resolution) == ([], False, True, None)


@pytest.mark.parametrize("name", ["my-style", "a.b", "é 人", "console", "x" * file_names.MAX_NAME_CHARACTERS])
def test_names_that_every_system_has(name, tmp_path):
    file_names.check(name)
    (tmp_path / f"{name}.safetensors").touch()


@pytest.mark.parametrize("name", ["", " ", "a/b", "a\\b", "..", ".a", "a.", "a ", "a:b", "a\n", "NUL", "com1.x", "x" * 101])
def test_names_that_some_system_lacks(name):
    with pytest.raises(ValueError, match="name|device"):
        file_names.check(name)


def test_failures_are_one_sentence(tmp_path):
    """Of a traceback its last line; of a process that was killed what may have been; options by the names of inputs."""
    log = tmp_path / "log.txt"
    log.write_text("a warning\rtraining: 10%\nRead it again, or give --lcm-lora or another --name.\n\n")
    assert training_process.failure_message(log, 1) == "Read it again, or give lcm_lora or another name."
    assert "ended by signal 9, perhaps for lack of memory" in training_process.failure_message(log, -9)
    log.write_text("Traceback (most recent call last):\n  File\ntorch.OutOfMemoryError: CUDA out of memory.\n")
    said = training_process.failure_message(log, 1)
    assert "CUDA out of memory.): turn gradient_checkpointing on" in said
    assert str(log) in said


def test_the_folders_content_is_seen(tmp_path):
    """A new file, a changed one, and one in a folder in it."""
    seen = [training_folders.content(tmp_path)]
    for name, text in (("a.txt", "a"), ("a.txt", "ab"), ("b/c.txt", "c")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        seen.append(training_folders.content(tmp_path))
    (tmp_path / "dead").symlink_to(tmp_path / "nowhere")
    assert training_folders.content(tmp_path) == seen[-1]
    assert len({tuple(one) for one in seen}) == 4


@pytest.mark.server
@pytest.mark.soak
def test_nobody_listens_so_it_ends(tmp_path):
    """Who started it has died: its pipe is closed, and the process ends, saved, after its step."""
    runs.pictures(tmp_path / "pictures")
    given = runs.arguments(tmp_path, "vega-nano", "--progress=json", steps=100_000, save_every=100_000)
    command = [sys.executable, str(training_process.PACK_DIR), *given]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=tmp_path)
    next(line for line in process.stdout if line.startswith('{"event": "step"'))
    process.stdout.close()
    assert process.wait(600) != 0
    assert 0 < runs.saved(tmp_path / "work", "test") < 100_000
