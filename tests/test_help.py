"""The help pages in web/docs: one for each node that people see, at the address that ComfyUI's browser asks for."""

import re
from pathlib import Path

import pytest
import shown
import tomllib

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "web" / "docs"
PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)]*)\)")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)]*)\)")

each_node = pytest.mark.parametrize("schema", shown.NODES, ids=lambda schema: schema.node_id)


def page(schema) -> str:
    return (DOCS / f"{schema.node_id}.md").read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    return re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)[1]


def named(text: str, first: str) -> list[str]:
    """The first column of the tables whose head begins with `first`."""
    tables = re.findall(rf"^\| {first} \|.*\n\|[-|]+\n((?:\|.*\n)*)", text, re.MULTILINE)
    return [row.split("|")[1].strip().strip("`") for table in tables for row in table.splitlines()]


def test_each_node_has_a_page_and_each_page_a_node():
    assert sorted(path.stem for path in DOCS.glob("*.md")) == sorted(schema.node_id for schema in shown.NODES)


@each_node
def test_the_page_has_its_parts(schema):
    text = page(schema)
    assert text.startswith(f"# {schema.display_name}\n\n")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Inputs", "Outputs", "Tip", "Limits"]


@each_node
def test_the_page_names_each_input_and_output_and_no_other(schema):
    text = page(schema)
    assert named(section(text, "Inputs"), "input") == [slot.id for slot in schema.inputs]
    assert named(section(text, "Outputs"), "output") == [slot.display_name or slot.io_type for slot in schema.outputs]
    words = {word for word in re.findall(r"`([^`]+)`", text) if re.fullmatch(r"[a-z_ ]+", word)}
    assert shown.choices(schema) <= words
    assert words <= {slot.id for node in shown.NODES for slot in node.inputs}.union(*map(shown.choices, shown.NODES))


@each_node
def test_the_pictures_are_there(schema):
    """The browser looks for a picture in docs/, whatever page it is on."""
    pictures = PICTURE.findall(page(schema))
    assert pictures
    for says, name in pictures:
        assert len(says) > 20, f"{name} has no words for those who can't see it"
        assert "/" not in name
        assert (DOCS / name).is_file()


@each_node
def test_links_lead_out_of_comfyui(schema):
    """The browser leaves a link as it is: a relative one would lead nowhere."""
    assert all(link.startswith("https://") for link in LINK.findall(page(schema)))


def test_the_address_follows_the_folder():
    """A folder that tool.comfy names is served under the project's name: nobody asks there once the pack was renamed."""
    assert "web" not in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["comfy"]


@each_node
def test_the_server_has_the_page_where_the_browser_looks(server, schema):
    module = server.get(f"/object_info/{schema.node_id}").json()[schema.node_id]["python_module"]
    pack = module.split(".")[1].split("@")[0]  # as nodeHelpUtil.ts does
    docs = f"/extensions/{pack}/docs"
    # It asks for a page in its language first, and takes any answer but an error for one.
    assert server.http.get(f"{server.url}{docs}/{schema.node_id}/fr.md", timeout=60).status_code == 404
    answer = server.get(f"{docs}/{schema.node_id}.md")
    assert "html" not in answer.headers["Content-Type"]
    assert answer.content.decode() == page(schema)
    for _, name in PICTURE.findall(page(schema)):
        assert server.get(f"{docs}/{name}").content == (DOCS / name).read_bytes()
