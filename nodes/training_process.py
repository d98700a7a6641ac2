"""The process that trains: started, listened to, stopped. Training needs gradients and memory that the host's own lacks."""

import json
import logging
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import comfy.model_management

PACK_DIR = Path(__file__).resolve().parents[1]
POLL_SECONDS = 0.1
# Of Windows: Ctrl-C in ComfyUI's console must not end training unsaved, and ComfyUI's server must answer meanwhile.
# Elsewhere a session of its own is for the one, and for the other the process lowers its priority itself (__main__.py).
WINDOWS_FLAGS = ("CREATE_NEW_PROCESS_GROUP", "BELOW_NORMAL_PRIORITY_CLASS")
STOP_SIGNAL = getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM)
REPORTED_EXIT_CODES = (1, 2, 130)  # of sys.exit with one, of an option that can't be, of an interruption
OUT_OF_MEMORY_HINT = "turn gradient_checkpointing on, or lower resolution or batch_size"


def run(arguments: list[str], log: Path, on_event: Callable[[dict], None]) -> None:
    """Runs `python -m train` with these arguments to its end, and gives each of its events to on_event.

    What it says goes to the host's log, its errors to the file `log`. RuntimeError with the sentence that it failed with.
    The host's InterruptProcessingException comes when the process has saved and ended.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as errors:
        process = start(arguments, errors)
    lines: queue.SimpleQueue = queue.SimpleQueue()
    reader = threading.Thread(target=read, args=(process, lines), daemon=True)
    reader.start()
    try:
        listen(lines, on_event)
    except BaseException:  # the host's interruption is no Exception
        stop(process)
        raise
    finally:
        status = process.wait()
        reader.join()
        process.stdout.close()
    if status:
        raise RuntimeError(failure_message(log, status))


def command_line(options: dict) -> list[str]:
    """--learning-rate=0.1 of {"learning_rate": 0.1}; a list's option once for each. None and False are left out.

    With the = no text of a user's becomes an option.
    """
    given = []
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            given.append(option)
        elif value is not None and value is not False:
            given += [f"{option}={one}" for one in (value if isinstance(value, list) else [value])]
    return given


def start(arguments: list[str], errors) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(PACK_DIR), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=environment(),
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
        creationflags=sum(getattr(subprocess, flag, 0) for flag in WINDOWS_FLAGS),
    )


def environment() -> dict[str, str]:
    """Ours; where the host computes on the processor the process does so too."""
    if comfy.model_management.get_torch_device().type != "cpu":
        return dict(os.environ)
    return {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "ACCELERATE_USE_CPU": "true"}


def read(process: subprocess.Popen, lines: queue.SimpleQueue) -> None:
    """Puts each line that it prints into the queue, then None."""
    for line in process.stdout:
        lines.put(line.rstrip())
    lines.put(None)


def listen(lines: queue.SimpleQueue, on_event: Callable[[dict], None]) -> None:
    """Until the end; the host's interruption ends it at once."""
    while True:
        comfy.model_management.throw_exception_if_processing_interrupted()
        try:
            line = lines.get(timeout=POLL_SECONDS)
        except queue.Empty:
            continue
        if line is None:
            return
        if line.startswith('{"event"'):
            on_event(json.loads(line))
        elif line:
            logging.info("Vega, training: %s", line)


def stop(process: subprocess.Popen) -> None:
    """Ends it after its step, saved; interrupted a second time it ends at once, and goes on from its last save."""
    try:
        process.send_signal(STOP_SIGNAL)
    except OSError:  # Windows: ComfyUI has no console, as in its desktop application
        process.kill()
    while process.poll() is None:
        if comfy.model_management.processing_interrupted():
            process.kill()
        time.sleep(POLL_SECONDS)


def failure_message(log: Path, status: int) -> str:
    """The sentence that it ended with, in the words of the node: --learning-rate is its input learning_rate."""
    said = [line.strip() for line in re.split(r"[\r\n]+", log.read_text(encoding="utf-8", errors="replace"))]
    last = next((line for line in reversed(said) if line), "")
    has_traceback = "Traceback (most recent call last):" in said
    if status in REPORTED_EXIT_CODES and not has_traceback:
        return re.sub(r"--([a-z]+(?:-[a-z0-9]+)*)", lambda option: option[1].replace("-", "_"), last)
    kept = f"What was saved is kept, and the same inputs go on from it. {log} has all that was said."
    if status < 0 or not has_traceback:
        ended = f"was ended by signal {-status}" if status < 0 else f"broke off with exit code {status}"
        return f"The training {ended}, perhaps for lack of memory: {OUT_OF_MEMORY_HINT}. {kept}"
    remedy = f": {OUT_OF_MEMORY_HINT}" if "out of memory" in last else ""
    return f"The training failed ({last}){remedy}. {kept}"
