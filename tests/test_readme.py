"""What the README states is so: the table of what loads, the times, the ways to install.

The table is what `make soak` loaded; in `make test` each test that loads looks for its own cell.
"""

import json
import re
import subprocess
from pathlib import Path

import loads
import pytest
import shown
import tomllib

from bench.families import Family
from dev.templates import TEMPLATES

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "bench" / "results"


@pytest.mark.soak
def test_the_table_is_what_loaded():
    if not loads.LOADED_FAMILIES:
        pytest.skip("compares what test_bases.py and test_lora.py loaded in the same run: run all of `make soak`")
    if loads.WRITE_TABLE:
        loads.write_readme_table()
    assert loads.read_readme_table() == loads.LOADED_FAMILIES, "`make table` writes the README's table anew"


def measured() -> dict[str, dict]:
    """The main case of the last run on a processor, by what was measured."""
    run = json.loads((RESULTS / "amd-epyc-avx512.json").read_text(encoding="utf-8"))["runs"][-1]
    return {row["variant"]: row for row in run["ends"] if row["case"] == run["main_case"] == [256, 4, 1]}


def test_the_times_are_those_that_were_measured():
    """The template has Accelerate in it, so that row counts, and neither the better of two nor the median alone."""
    template = json.loads((ROOT / "workflows" / "api" / "vega_txt2img.json").read_text(encoding="utf-8"))
    assert "VegaAccelerate" in {node["class_type"] for node in template.values()}
    rows, told = measured(), re.findall(r"^\| ([^|]+) \| (\d+) \| (\d+) \|$", README, re.MULTILINE)
    ours, diffusers, core = "this pack, accelerated", "diffusers", "core, SaveImage"
    names = ours, "this pack, bf16", diffusers, core
    assert told == [(name, f"{rows[name]['p50_ms']:.0f}", f"{rows[name]['p95_ms']:.0f}") for name in names]
    assert {str(rows[name]["n"]) for name, *_ in told} == set(re.findall(r"Those are (\d+) pictures each", README))
    faster = re.search(
        r"about (\d+) % faster than diffusers and\s+about (\d+) % faster than ComfyUI's own nodes", README
    ).groups()
    assert [int(percent) for percent in faster] == [
        round(100 * (rows[name]["p50_ms"] / rows[ours]["p50_ms"] - 1)) for name in (diffusers, core)
    ]


def test_the_unets_times_are_those_that_were_measured():
    report = (RESULTS / "amd-epyc-avx512-processor.md").read_text(encoding="utf-8").partition("## TAESD's decoder")[0]
    measured = {row[1]: (row[5], row[7]) for line in report.splitlines() if len(row := re.split(r"\s*\|\s*", line)) == 10}
    told = re.findall(r"^\| ([^|]+) \| (\d\.\d+) \| (\S+) \|$", README, re.MULTILINE)
    names = {name.replace("`", "").replace("compiled by inductor", "inductor, freezing"): row for name, *row in told}
    assert {name: list(measured[name]) for name in names} == names
    assert len(names) == 6


def test_the_bases_times_are_those_that_were_measured():
    families = [Family(**row) for row in json.loads((RESULTS / "amd-epyc-avx512-families.json").read_text(encoding="utf-8"))]
    told = re.findall(r"^\| ([^|]+) \| (\d+) M \| (\d\.\d\d) \| (\d+) s \| (\d+) s \|$", README, re.MULTILINE)
    assert told == [
        (
            family.name,
            f"{family.parameters / 1e6:.0f}",
            f"{family.flop / 1e12:.2f}",
            f"{family.base_seconds(family.full_decode_s):.0f}",
            f"{family.few_step_seconds(family.tiny_decode_s):.0f}",
        )
        for family in families
    ]
    calls = {family.name: family.core_unet_s for family in families}
    times = [calls["SDXL"] / calls[name] for name in ("Segmind-Vega", "SSD-1B")]
    times += [calls["SD 1.5"] / calls[name] for name in ("small-sd", "tiny-sd")]
    said = re.findall(r"(?:call is|they are) (\d\.\d\d) and (\d\.\d\d) times as fast", README)
    assert [float(number) for pair in said for number in pair] == [round(number, 2) for number in times]


def test_no_gpu_was_measured_as_it_says():
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in RESULTS.glob("*.json")]
    machines = [report.get("machine") for report in reports if isinstance(report, dict)]
    gpus = [machine for machine in machines if machine and machine.get("gpu_memory_gib")]
    assert ("No GPU has been measured yet" in README) == (not gpus)


def test_nothing_is_said_of_places_where_the_pack_is_not():
    """It is not published: no registry entry, no repository, no page for issues."""
    assert "vega-comfyui" not in README
    assert re.findall(r"git clone|comfy node install|Manager: search", README) == []
    requirements = (ROOT / "requirements.txt").read_text(encoding="utf-8").split()
    assert requirements == ["diffusers", "prometheus-client"]
    assert "installs two packages: diffusers" in README
    assert "prometheus-client" in README


def test_each_row_on_comfyui_names_its_test():
    """What ComfyUI's own nodes do and this pack does: each row of the table has the test of what is said of the pack."""
    table = README.partition("## Why not ComfyUI's own nodes?")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    proofs = [re.search(r'\[test\]\((tests/test_\w+\.py) "(test_\w+)"\) \|$', row).groups() for row in rows]
    assert len(proofs) >= 8
    assert [name for file, name in proofs if f"def {name}(" not in (ROOT / file).read_text(encoding="utf-8")] == []


def test_it_names_every_template_and_node():
    table = README.partition("## Templates")[2].partition("\n## ")[0]
    named = re.findall(r"^\| (\d\d .*?) \|", table, re.MULTILINE)
    titles = [template.title for template in TEMPLATES.values()]
    assert len(named) == len(titles)
    assert all(title.startswith(name) for title, name in zip(titles, named, strict=True))
    nodes = README.partition("## Nodes")[2].partition("\n## ")[0]
    assert re.findall(r"^\| (.*?) \|", nodes, re.MULTILINE)[1:] == [schema.display_name for schema in shown.NODES]


def test_its_links_lead_somewhere():
    """To files of the pack and to its own headings, as GitHub names them."""
    links = re.findall(r"\]\((?!https://)([^)\s]+)", README)
    headings = [re.sub(r"[^\w\- ]", "", h).lower().replace(" ", "-") for h in re.findall(r"^#+ (.*)$", README, re.MULTILINE)]
    assert [link for link in links if not (link[1:] in headings if link.startswith("#") else (ROOT / link).exists())] == []


def test_the_map_names_every_room():
    """And no other; of folders in folders only those that are rooms of their own."""
    text = re.search(r"Where things are:\n\n```\n(.*?)```", README, re.DOTALL)[1]
    entries = [line.split(maxsplit=1)[0] for line in text.splitlines()]
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    folders = {f"{name.partition('/')[0]}/" for name in names.split("\0") if "/" in name and not name.startswith(".")}
    assert {name for name in entries if name.count("/") == 1 and name.endswith("/")} == folders
    assert all((ROOT / name).exists() for name in entries)


def test_contributing_names_what_there_is():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w*./]+/[\w*./]*|[\w.]+\.(?:py|md|toml|txt))(?=[`])", text)
    assert len(named) > 15
    made = {"nodes/my_node.py", "web/docs/VegaMyNode.md", "web/docs/VegaMyNode/fr.md", ".comfyui/models"}
    assert [name for name in named if name not in made and not list(ROOT.glob(name))] == []
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"`make (\w+)", text)) <= {*targets, "hosts"}
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    (tiers,) = re.findall(r"# a tier: (.*), \.\.\.", text)
    assert set(tiers.split(", ")) <= {marker.partition(":")[0] for marker in settings["markers"]}
