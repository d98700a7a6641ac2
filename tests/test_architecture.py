"""Who may import whom, what importing the pack costs, and what may lie in the repository."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = {"cuda", "torch", "safetensors", "tqdm", "yaml"}  # cuda: torch's own bindings
# What each part may import besides the standard library and, relatively, itself.
ALLOWED = {
    "vega": {"comfy", "comfy_extras"} | LIBRARIES,
    "nodes": {"comfy", "comfy_api", "comfy_execution", "folder_paths", "latent_preview", "server", "torch"}
    | {"pictures", "vega"},
    "pictures": {"comfy_api", "protocol", "server", "aiohttp", "numpy", "PIL"},
    "api": {"comfy", "execution", "protocol", "server", "aiohttp", "prometheus_client", "pydantic", "pydantic_settings"}
    | {"nodes", "pictures", "vega"},
}


OURS = {"nodes", "pictures", "vega"}


def imports(path: Path):
    """(level, top-level module) of each import in a file; level 0 is absolute."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, (node.module or "").split(".")[0]


@pytest.mark.parametrize("part", ALLOWED)
def test_arrows(part):
    for path in (ROOT / part).rglob("*.py"):
        for level, module in imports(path):
            if level == 2:
                assert module in ALLOWED[part], f"{path.name} imports ..{module}"
            elif level == 0 and module not in sys.stdlib_module_names:
                assert module in ALLOWED[part] - OURS, f"{path.name} imports {module}"
            assert level <= 2


def test_the_door_imports_nothing_until_it_is_opened():
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    assert not [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    assert "NODE_CLASS_MAPPINGS" not in (ROOT / "__init__.py").read_text(encoding="utf-8")


@pytest.mark.model
def test_a_picture_needs_no_diffusers():
    """diffusers takes seconds to import; a fresh process loads, adapts, samples and decodes without it."""
    code = """
import sys
from pathlib import Path
from dev import host_setup
import torch
host_setup.load_pack()
from vega_pack.vega import checkpoint, lcm, lora, tiny_decoder
with torch.inference_mode():
    model, clip, vae = checkpoint.load(checkpoint.NANO, "tiny", [])
    model = lora.apply(model, checkpoint.NANO_LORA, 1.0)
    positive = clip.encode_from_tokens_scheduled(clip.tokenize("a lake"))
    latent = lcm.sample(model, 0, 1, positive, {"samples": torch.zeros(1, 4, 16, 16)}, 1.0, disable_progress=True)
    tiny_decoder.decode(vae, latent["samples"])
assert "diffusers" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def tracked() -> list[Path]:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [ROOT / n for n in names.decode().split("\0") if n and (ROOT / n).is_file()]


def test_no_large_files():
    assert [p for p in tracked() if p.stat().st_size >= 16 * 2**20] == []
    assert sum(p.stat().st_size for p in (ROOT / "vega" / "nano").rglob("*") if p.is_file()) < 48e6


def test_no_machine_paths():
    pattern = re.compile("|".join(f"(?<![a-z.])/{name}/" for name in ("wo" + "rk", "ro" + "ot", "ho" + "me/[a-z]+")))
    for path in tracked():
        if path.suffix in (".py", ".md", ".json", ".toml", ".txt", ".sh", ".yaml", "") and path.name != "LICENSE":
            found = pattern.search(path.read_text(encoding="utf-8"))
            assert not found, f"{path} names {found.group()}"
