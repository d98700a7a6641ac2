"""What a template's texts say is so in its graph."""

import re
from pathlib import Path

import pytest
import workflow_files
from diffusers import LCMScheduler
from workflow_files import WORKFLOWS, every, levels, nodes, read, subgraphs
from workflow_files import for_programs as prompt

ROOT = Path(__file__).resolve().parents[1]
COMES_WITH_US = {"vega-nano (embedded)", "vega-nano LCM-LoRA (embedded)"}
# Buttons, menus and keys of ComfyUI's page.
HOSTS_OWN = {"Run", "Run (On Change)", "File, Export (API)", "R", "View details", "Download all"}
LIVE_TEXTS = (ROOT / "web" / "js" / "live_texts.js").read_text(encoding="utf-8").partition("},")[0]
LIVE_WIDGET = set(re.findall(r'^ +\w+: "(.+)",$', LIVE_TEXTS, re.MULTILINE))  # what Live Image has on it, in English


def graph(path: Path) -> list[dict]:
    return list(nodes(read(path)))


def note(path: Path) -> str:
    return workflow_files.note(read(path))


def texts(path: Path) -> str:
    """All that the template says: its note, the titles of subgraphs, groups and nodes, and the labels that it draws."""
    workflow = read(path)
    named = [group for level in levels(workflow) for group in level["groups"]]
    titles = [one["title"] for one in [*named, *graph(path)] if one.get("title")]
    titles += [subgraph["name"] for subgraph in subgraphs(workflow)]
    labels = [n["inputs"]["value"] for n in prompt(path).values() if n["class_type"] == "PrimitiveString"]
    return "\n".join([note(path), *titles, *labels])


def given(path: Path, name: str) -> list:
    """The values of an input in all nodes that have it, also those that come over a link from a number or a list of them."""
    nodes = prompt(path)

    def values(value) -> list:
        if not isinstance(value, list):
            return [value]
        inputs = nodes[value[0]]["inputs"]
        return [one for source in inputs.values() for one in values(source)]

    return [one for node in nodes.values() if name in node["inputs"] for one in values(node["inputs"][name])]


def sizes(path: Path) -> set[tuple[int, int]]:
    empty = [n["inputs"] for n in prompt(path).values() if n["class_type"] == "EmptyLatentImage"]
    return {(n["width"], n["height"]) for n in empty if not isinstance(n["width"], list)}


def downloaded(path: Path, info: dict) -> set[str]:
    """What is chosen in a list of files, and comes neither with the pack nor with ComfyUI."""
    chosen = set()
    for node in prompt(path).values():
        definition = info[node["class_type"]]["input"]
        for name, (kind, *rest) in {**definition["required"], **definition.get("optional", {})}.items():
            options = kind if isinstance(kind, list) else rest[0].get("options", []) if kind == "COMBO" else None
            value = node["inputs"].get(name)
            if options is not None and isinstance(value, str) and value not in options:
                chosen.add(value)
    return chosen - COMES_WITH_US


@pytest.fixture(scope="module")
def info(server):
    return server.get("/object_info").json()


@every
def test_one_seed_is_one_and_so_is_one_prompt(path):
    said = texts(path).lower()
    if "one seed" in said:
        assert len(set(given(path, "seed"))) == 1
    if "one prompt" in said:
        links = [n["inputs"]["positive"] for n in prompt(path).values() if "positive" in n["inputs"]]
        assert len({tuple(link) for link in links}) == 1


@every
def test_what_needs_a_download_says_so(path, info):
    """A template that runs as it is needs no download, and one that needs a download says so."""
    needed, said = downloaded(path, info), texts(path)
    if re.search(r"runs as it is|comes with the pack|(no|without a) download", said):
        assert not needed
    offered = {model["name"] for node in graph(path) for model in node["properties"].get("models", ())}
    assert offered == {name for name in needed if not name.endswith("/")}, "what ComfyUI marks and offers when it opens"
    assert ("press **View details**, then **Download all**" in said) == bool(offered)
    for folder in needed - offered:
        assert f"into models/diffusers/{folder.strip('/')}\n" in said
        assert "ComfyUI can't offer them" in said


@every
def test_every_name_in_a_note_is_there(path, info):
    """Bold: nodes, inputs, choices, folders, templates, and what the page itself has. Italic: inputs."""
    inside, said = graph(path), note(path)
    shown = {n.get("title") or info[n["type"]]["display_name"] for n in inside}
    shown |= {re.sub(r" \(.*\)$", "", name) for name in shown}  # said without what stands behind it
    faces = {entry["name"].replace("_", " ") for one in subgraphs(read(path)) for entry in one["inputs"]}
    inputs = faces | {entry["name"].replace("_", " ") for n in inside for entry in n["inputs"]}
    if "seed" in inputs:
        inputs.add("control after generate")  # the page's own, below every seed
    choices = {str(value) for n in inside for value in n["widgets_values"]}
    for n in inside:
        for kind, *rest in info[n["type"]]["input"]["required"].values():
            choices |= set(rest[0].get("options", ())) if kind == "COMBO" else set(kind) if isinstance(kind, list) else set()
    added = set(re.findall(r"add \*\*(.+?)\*\*", said))
    assert added <= {definition["display_name"] for definition in info.values()}
    folders = {f"models/{model['directory']}" for n in inside for model in n["properties"].get("models", ())}
    there = shown | inputs | choices | folders | added | HOSTS_OWN | {other.stem for other in WORKFLOWS}
    there |= LIVE_WIDGET if "VegaLiveImage" in {n["type"] for n in inside} else set()
    bold = {name for name in re.findall(r"\*\*(.+?)\*\*", said) if not name.endswith(":")}
    assert bold <= there
    assert set(re.findall(r"(?<!\*)\*([^*\n]+)\*(?!\*)", said)) <= inputs


@every
def test_the_numbers_are_those_of_the_graph(path):
    said = texts(path)
    others = [other for other in WORKFLOWS if f"**{other.stem}**" in said]
    for size in re.findall(r"(\d+) x (\d+)", said):
        assert tuple(map(int, size)) in sizes(path).union(*map(sizes, others))
    steps = set(given(path, "steps"))
    for least, most in re.findall(r"(?:steps\*\*: )?(\d+) to (\d+)(?= steps| is the useful)", said):
        assert all(int(least) <= count <= int(most) for count in steps)
    for listed in re.findall(r"(?<!to )(?<![\d.])((?:\d+, )*(?:\d+ and )?\d+) steps?\b", said):
        assert {int(count) for count in re.findall(r"\d+", listed)} <= steps
    for guidance in re.findall(r"CFG (\d+)", said):
        assert float(guidance) in given(path, "cfg")
    for strength in re.findall(r"at strength (\d\.?\d*)", said):
        assert float(strength) in given(path, "strength_model")


def test_the_checks_of_numbers_find_some():
    said = "\n".join(map(texts, WORKFLOWS))
    forms = (r"\d+ x \d+", r"\d+ to \d+ steps", r"\*\*steps\*\*: \d+ to \d+", r"\d, \d and \d steps", r"CFG \d")
    for form in (*forms, r"at strength \d"):
        assert re.search(form, said), form


def test_picture_to_picture_explains_its_denoise():
    """The note of picture to picture explains its own denoise and the fewest steps."""
    path = ROOT / "workflows" / "03 Picture to picture.json"
    (explained,) = re.findall(r"\*\*denoise\*\* .*", note(path))
    assert {f"{denoise:g} keeps" in explained for denoise in given(path, "denoise")} == {True}
    ((denoise, most),) = re.findall(r"at ([\d.]+) at most (\d+)", note(path))
    scheduler = LCMScheduler()
    scheduler.set_timesteps(int(most), strength=float(denoise))
    with pytest.raises(ValueError, match="num_inference_steps"):
        scheduler.set_timesteps(int(most) + 1, strength=float(denoise))


@every
def test_a_model_that_is_there_twice_is_the_same(path):
    loaders = [n["inputs"] for n in prompt(path).values() if n["class_type"] == "VegaLoader"]
    if "the same model" in texts(path):
        assert len(loaders) > 1
        assert all(inputs == loaders[0] for inputs in loaders)


def test_nothing_links_to_a_place_that_is_not_published():
    assert [path.name for path in WORKFLOWS if "vega-comfyui" in path.read_text(encoding="utf-8")] == []
