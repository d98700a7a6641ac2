"""What the host's side of a prompt costs, where no model computes: in the server, after the decoder, at the start."""

import json
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator

from . import stages, variants
from .weights import Models

IMPORTS = 5
# The most that each may be.
BARS = {"prompt_ms": 6.0, "decode_tail_ratio": 0.25, "import_ms": 60.0}


def script(name: str):
    """What a module of this package prints, in a process of its own; its log goes to the terminal only if it fails."""
    command = [sys.executable, "-m", f"bench.{name}"]
    done = subprocess.run(command, cwd=stages.ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def decode_tail() -> dict[str, float]:
    found = script("decode_tail")
    tail = {f"decode_tail_{who}_ms": milliseconds for who, milliseconds in found.items()}
    return {**tail, "decode_tail_ratio": found["ours"] / found["core"]}


def pack_import() -> dict[str, float]:
    script("import_time")  # so that the bytecode is there
    return {"import_ms": statistics.median(script("import_time") for _ in range(IMPORTS))}


def prompt(models: Models, prompts: Iterator) -> dict:
    core = [sum(parts.values()) for parts in stages.host_cost(models, prompts, variants.GRAPHS[variants.CORE])]
    found = stages.host_cost(models, prompts, variants.GRAPHS[variants.ACCELERATED])
    whole = [sum(parts.values()) for parts in found]
    log = (models.base / "server.log").read_text(encoding="utf-8", errors="replace")
    listed = re.findall(r"([\d.]+) seconds: .*[/\\]" + re.escape(stages.ROOT.name) + r"$", log, re.MULTILINE)
    return {
        "prompt_ms": 1000 * statistics.median(whole),
        "prompt_min_ms": 1000 * min(whole),
        "core_prompt_ms": 1000 * statistics.median(core),
        "prompt_parts_ms": {part: 1000 * statistics.median(p[part] for p in found) for part in found[0]},
        "import_seconds_as_listed_by_the_host": float(listed[0]),
    }


def measure(models: Models, prompts: Iterator) -> dict:
    return {**prompt(models, prompts), **decode_tail(), **pack_import()}
