"""What travels to a GPU machine: whole, in parts that fit, and enough for the host to draw there."""

import importlib.metadata
import io
import os
import tarfile
from pathlib import Path

import comfyui
import gpu_pack
import gpu_run
import graphs
import pytest
from host import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def an_archive() -> bytes:
    """A tar file of site/ and host/ that no compression makes smaller than 100 kB."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as tar:
        for name, content in (("site/random", os.urandom(100_000)), ("host/main.py", b"pass\n")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


@pytest.fixture
def collected(tmp_path):
    return tmp_path / "collected"


def bring(part: Path, tree: Path, collected: Path) -> None:
    """One call: the part's folder arrives in a tree of its own."""
    arrived = tree / part.parent.name / part.name
    arrived.parent.mkdir(parents=True, exist_ok=True)
    arrived.write_bytes(part.read_bytes())
    gpu_run.collect(tree, collected)


def test_parts_are_of_like_size_and_none_is_above_the_limit(tmp_path):
    packed = an_archive()
    parts = gpu_pack.split(packed, tmp_path, 30_000)
    assert [part.parent.name for part in parts] == ["1", "2", "3", "4"]
    sizes = [part.stat().st_size for part in parts]
    assert sum(sizes) == len(packed)
    assert max(sizes) <= 30_000
    assert max(sizes) - min(sizes) < len(parts)
    gpu_pack.split(packed, tmp_path, 200_000)
    assert [folder.name for folder in tmp_path.iterdir()] == ["1"], "parts of the pack before are left"


def test_one_part_a_call_in_any_order_and_the_last_one_makes_it_whole(tmp_path, collected):
    parts = gpu_pack.split(an_archive(), tmp_path / "packed", 40_000)
    bring(parts[2], tmp_path / "tree", collected)
    assert gpu_run.missing(collected) == [".gpu/1", ".gpu/2"]
    bring(parts[0], tmp_path / "tree", collected)
    bring(parts[0], tmp_path / "tree", collected)
    assert gpu_run.missing(collected) == [".gpu/2"]
    bring(parts[1], tmp_path / "tree", collected)
    assert gpu_run.missing(collected) == []
    folder = gpu_run.unpack(collected)
    assert (folder / "site" / "random").stat().st_size == 100_000
    assert (folder / "host" / "main.py").read_text() == "pass\n"
    (folder / "kept").touch()
    assert (gpu_run.unpack(collected) / "kept").exists(), "unpacked twice"


def test_ten_parts_are_joined_by_number(tmp_path, collected):
    for part in gpu_pack.split(an_archive(), tmp_path / "packed", 9_000):
        bring(part, tmp_path / "tree", collected)
    assert gpu_run.missing(collected) == []
    assert (gpu_run.unpack(collected) / "site" / "random").stat().st_size == 100_000


def test_a_newer_pack_replaces_all_of_the_one_before(tmp_path, collected):
    for part in gpu_pack.split(an_archive(), tmp_path / "packed", 60_000):
        bring(part, tmp_path / "tree", collected)
    gpu_run.unpack(collected)
    first, second = gpu_pack.split(an_archive(), tmp_path / "packed", 60_000)
    bring(first, tmp_path / "tree", collected)
    assert gpu_run.missing(collected) == [".gpu/2"]
    assert [path.name for path in collected.iterdir()] == [first.name]


def test_nothing_brought_and_a_damaged_part_are_said(tmp_path, collected):
    with pytest.raises(SystemExit, match=r"make gpu-pack"):
        gpu_run.missing(collected)
    first, second = gpu_pack.split(an_archive(), tmp_path / "packed", 60_000)
    second.write_bytes(second.read_bytes()[:-1])
    for part in (first, second):
        bring(part, tmp_path / "tree", collected)
    with pytest.raises(SystemExit, match="damaged"):
        gpu_run.unpack(collected)


def test_a_part_and_this_tree_fit_into_one_call():
    names = gpu_pack.tree()
    assert {ROOT / name for name in ("LICENSE", "dev/gpu_run.py", "vega/nano/unet/config.json")} <= names
    assert ROOT / ".venv" / "pyvenv.cfg" not in names
    assert 0 < gpu_pack.room() <= 64 * 2**20 - sum(name.stat().st_size for name in names)


def test_what_the_machine_lacks_is_brought_with_its_own_requirements():
    brought = gpu_pack.lacking()
    known = brought.keys() | gpu_pack.MACHINE | gpu_pack.UNUSED
    assert {"av", "comfy-aimdo", "torchsde", "trampoline", "diffusers", "peft", "websocket-client", "pydantic-core"} <= set(
        brought
    )
    assert not brought.keys() & (gpu_pack.MACHINE | gpu_pack.UNUSED)
    assert brought["comfy-kitchen"] == "0.2.26"  # what the host pins
    assert {canonicalize_name(requirement.name) for requirement in gpu_pack.required()} <= known
    for name in brought:
        for requirement in map(Requirement, importlib.metadata.requires(name) or []):
            if not requirement.marker or requirement.marker.evaluate({**gpu_pack.TARGET, "extra": ""}):
                assert canonicalize_name(requirement.name) in known, f"{name} needs {requirement}"


@pytest.mark.soak
def test_the_host_draws_with_only_what_the_machine_has_and_is_brought(tmp_path, monkeypatch):
    """The server runs on links to those packages alone, in place of this environment's."""
    installed = {canonicalize_name(d.name): d for d in importlib.metadata.distributions()}
    machine = [Requirement(name) for name in gpu_pack.MACHINE & installed.keys()]
    links = tmp_path / "links"
    links.mkdir()
    for name in gpu_pack.with_their_own(machine, set()).keys() | gpu_pack.lacking().keys():
        for top in {file.parts[0] for file in installed[name].files} - {"..", "__pycache__"}:
            if not (links / top).exists():  # a package like nvidia is shared
                (links / top).symlink_to(installed[name].locate_file(top))
    gpu_pack.stand_in_for_the_frontend(links)
    change = f"import sys\nsys.path[:] = [{str(links)!r} if path.endswith('site-packages') else path for path in sys.path]\n"
    (tmp_path / "sitecustomize.py").write_text(change)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    base = tmp_path / "base"
    base.mkdir()
    with comfyui.serve(base) as server, server.connect() as client:
        assert client.run(graphs.text_to_image(VegaLCMSampler__steps=1))
        assert "left out" in server.get("/").text
    failed = {line.split()[-1] for line in server.log.read_text().splitlines() if "IMPORT FAILED" in line}
    assert failed == {"nodes_glsl.py"}, "more of the host than comfy-angle's shaders is missing"
