"""Who may import whom, what importing the pack costs, and what may lie in the repository."""

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = {"cuda", "torch", "safetensors", "tqdm", "yaml"}  # cuda: torch's own bindings
# What each part may import besides the standard library and, relatively, itself.
ALLOWED = {
    "vega": {"comfy", "comfy_extras", "comfyui_version", "openvino", "psutil"} | LIBRARIES,  # openvino: optional
    "nodes": {"aiohttp", "comfy", "comfy_api", "comfy_execution", "folder_paths", "latent_preview", "server", "torch"}
    | {"images", "vega"},
    "images": {"comfy", "comfy_api", "folder_paths", "protocol", "server", "aiohttp", "numpy", "torch", "PIL"},
    "api": {"comfy", "execution", "protocol", "server", "aiohttp", "pydantic", "contract", "images", "nodes", "vega"},
    "contract": {"prometheus_client", "pydantic", "pydantic_settings"},  # neither the host nor aiohttp: serve imports it
}


OURS = {"contract", "images", "nodes", "vega"}


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


# What the other rooms may import of ours. vega_pack is the pack as the host has it; `nodes` is the host's nodes.py.
ARROWS = {
    "extension": {"api", "contract", "host_version", "images", "nodes"},
    "serve": {"contract"},
    "vega_client": set(),
    "docs": {"vega_client"},
    "__main__": {"train"},
    "train": {"vega"},
    "train.nano": {"train"},
    "dev": {"vega_client", "vega_pack"},
    "bench": {"dev", "nodes", "vega_client", "vega_pack"},
    "tests": {"bench", "contract", "dev", "nodes", "serve", "train", "train.nano", "vega_client", "vega_pack"},
}
# What they may import of others, where it isn't all of dev/requirements.txt.
PACKAGES = {
    "extension": {"aiohttp", "comfy_api", "server"},
    "serve": {"httpx", "multidict", "psutil", "pydantic", "ray", "starlette", "uvicorn"},
    "vega_client": {"PIL", "httpx", "tenacity", "typing_extensions", "websockets"},
    "docs": set(),
    "train": {"PIL", "accelerate", "diffusers", "numpy", "peft", "safetensors", "torch", "tqdm", "transformers"}
    | {"filelock"}  # torch brings it
    | {"bitsandbytes", "lpips"},  # optional
}
PACKAGES["train.nano"] = PACKAGES["train"]
ROOMS = {*ALLOWED, *ARROWS, "host_version", "vega_pack"}


def imported(path: Path) -> Iterator[str]:
    """The full names of what a file imports; relative ones from the repository's root on."""
    folder = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) + 1 - node.level] if node.level else ()
            module = [*base, node.module] if node.module else base
            yield from (".".join([*module, alias.name]) for alias in node.names)


def room(name: str) -> str:
    """The room of a module's or a file's full name; the first part of a name that isn't ours."""
    return "train.nano" if name.startswith("train.nano.") else name.partition(".")[0]


def sources() -> Iterator[tuple[str, Path]]:
    """Every Python file, with its room."""
    for path in tracked():
        if path.suffix == ".py":
            yield room(".".join(path.relative_to(ROOT).parts)), path


@pytest.mark.parametrize("part", ARROWS)
def test_arrows_outside(part):
    """Of all rooms that are no part of a node or a route."""
    paths = [path for of, path in sources() if of == part]
    assert paths
    for path in paths:
        targets = {room(name) for name in imported(path)} - {part} - sys.stdlib_module_names
        assert targets & ROOMS <= ARROWS[part], path
        assert part not in PACKAGES or targets - ROOMS <= PACKAGES[part], path


def test_every_file_has_a_room():
    assert {of for of, _ in sources()} <= {*ALLOWED, *ARROWS, "__init__", "host_version"}


def test_arrows_have_no_circle():
    pack = {part: targets & ALLOWED.keys() for part, targets in ALLOWED.items()}
    graphlib.TopologicalSorter({**pack, **ARROWS, "vega_pack": {"extension"}}).prepare()


def test_nobody_changes_where_modules_are_found():
    """Arrows by way of sys.path are arrows that no test sees. dev/host_setup.py makes the host importable."""
    change = re.compile(r"sys\.path(\.(append|extend|insert|remove|pop)\(|\[.*\] *=| *\+?= )|site\.addsitedir")
    changing = [path.relative_to(ROOT).as_posix() for _, path in sources() if change.search(path.read_text("utf-8"))]
    assert changing == ["dev/host_setup.py"]


def test_nobody_finds_another_room_by_a_name_in_a_text():
    """As getattr(something, "a_method") does, which no test of imports sees."""
    trees = [(of, path, ast.parse(path.read_text("utf-8"))) for of, path in sources() if of in ALLOWED or of == "serve"]
    definitions: dict[str, set[str]] = {}
    for of, _, tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                definitions.setdefault(node.name, set()).add(of)
    for of, path, tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr"):
                name = getattr(node.args[1], "value", None)
                assert definitions.get(name, {of}) <= {of}, f"{path} finds {name} by its name"


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
    model, clip, vae = checkpoint.load(checkpoint.NANO_DIR, "tiny", [])
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
