"""The help pages in web/docs: one for each node that people see, in each language, where ComfyUI's browser asks for it.

The browser asks for docs/<node>/<language>.md first, and for docs/<node>.md, the English page, if that is not there.
"""

import json
import re
from pathlib import Path

import pytest
import shown
import tomllib
from page_graphs import SAVED, open_help

from dev import browser

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "web" / "docs"
PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)]*)\)")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)]*)\)")

LANGUAGES = sorted({folder.name for folder in (ROOT / "locales").iterdir()} - {"de"})  # ComfyUI offers no German
each_language = pytest.mark.parametrize("language", LANGUAGES)
each_node = pytest.mark.parametrize("schema", shown.NODES, ids=lambda schema: schema.node_id)


def english(schema) -> str:
    return (DOCS / f"{schema.node_id}.md").read_text(encoding="utf-8")


def translated(schema, language: str) -> str:
    return (DOCS / schema.node_id / f"{language}.md").read_text(encoding="utf-8")


def names(language: str) -> dict:
    """node -> its names in the language."""
    return json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))


def sections(text: str) -> list[str]:
    """Inputs, outputs, tip, limits."""
    return re.split(r"^## .*\n", text, flags=re.MULTILINE)[1:]


def named(section: str) -> list[str]:
    """The first column of the first table, if it has one."""
    rows = re.search(r"^\|[-|]+\n((?:\|.*\n)*)", section, re.MULTILINE)
    return [row.split("|")[1].strip().strip("`") for row in rows[1].splitlines()] if rows else []


def code(text: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", text))


def numbers(text: str) -> set[str]:
    return set(re.findall(r"\d+(?:\.\d+)?", re.sub(r"\]\([^)]*\)", "", text)))


def test_each_node_has_a_page_and_each_page_a_node():
    ids = [schema.node_id for schema in shown.NODES]
    found = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    assert found == {f"{id}.md" for id in ids} | {f"{id}/{language}.md" for id in ids for language in LANGUAGES}


@each_node
def test_the_page_has_its_parts(schema):
    text = english(schema)
    assert text.startswith(f"# {schema.display_name}\n\n")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Inputs", "Outputs", "Tip", "Limits"]


@each_node
def test_the_page_names_each_input_and_output_and_no_other(schema):
    text = english(schema)
    inputs, outputs, *_ = map(named, sections(text))
    assert inputs == [slot.id for slot in schema.inputs]
    assert outputs == [slot.display_name or slot.io_type for slot in schema.outputs]
    words = {word for word in code(text) if re.fullmatch(r"[a-z_ ]+", word)}
    assert shown.choices(schema) <= words
    assert words <= {slot.id for node in shown.NODES for slot in node.inputs}.union(*map(shown.choices, shown.NODES))


@each_node
def test_tables_fit_the_info_panel(schema):
    """At its usual width it cuts off a third column."""
    for text in (english(schema), *(translated(schema, language) for language in LANGUAGES)):
        assert {row.count("|") for row in text.splitlines() if row.startswith("|")} == {3}


@each_language
@each_node
def test_a_translation_says_the_same(schema, language):
    """The same inputs and outputs by their names there, options, paths, pictures, links and numbers; and no English line."""
    text, here, own = english(schema), translated(schema, language), names(language)
    assert here.startswith(f"# {own[schema.node_id]['display_name']}\n\n")
    assert len(sections(here)) == 4
    inputs, outputs, *_ = map(named, sections(here))
    assert inputs == [own[schema.node_id]["inputs"][slot.id]["name"] for slot in schema.inputs]
    assert outputs == named(sections(text)[1])
    ids = {slot.id for one in shown.NODES for slot in one.inputs}
    called = {slot["name"] for one in own.values() for slot in one["inputs"].values()}
    assert code(here) - ids - called == code(text) - ids - called
    assert code(here) & ids <= called | (code(text) if schema.node_id == "VegaReceiveImage" else set())  # a field of /v1
    assert [name for _, name in PICTURE.findall(here)] == [name for _, name in PICTURE.findall(text)]
    assert sorted(LINK.findall(here)) == sorted(LINK.findall(text))
    assert numbers(text) <= numbers(here)
    same = set(here.splitlines()) & set(text.splitlines()) - {""}
    assert [line for line in same if not re.match(r"# KSampler|\|[-|]+$|\| .* \| [`\[].*[`)] \|$", line)] == []


@each_node
def test_the_pictures_are_there(schema):
    """The browser looks for a picture in docs/, whatever page it is on."""
    pictures = PICTURE.findall(english(schema))
    assert pictures
    for says, name in pictures:
        assert len(says) > 20, f"{name} has no words for those who can't see it"
        assert "/" not in name
        assert (DOCS / name).is_file()


@each_node
def test_links_lead_out_of_comfyui(schema):
    """The browser leaves a link as it is: a relative one would lead nowhere."""
    assert all(link.startswith("https://") for link in LINK.findall(english(schema)))


def test_the_address_follows_the_folder():
    """A folder that tool.comfy names is served under the project's name: nobody asks there once the pack was renamed."""
    assert "web" not in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["comfy"]


@each_node
def test_the_server_has_the_page_where_the_browser_looks(server, schema):
    module = server.get(f"/object_info/{schema.node_id}").json()[schema.node_id]["python_module"]
    pack = module.split(".")[1].split("@")[0]  # as nodeHelpUtil.ts does
    docs = f"/extensions/{pack}/docs"
    answer = server.get(f"{docs}/{schema.node_id}.md")
    assert "html" not in answer.headers["Content-Type"]
    assert answer.content.decode() == english(schema)
    assert server.get(f"{docs}/{schema.node_id}/fr.md").content.decode() == translated(schema, "fr")
    # It takes any answer but an error for a page in its language.
    assert server.http.get(f"{server.url}{docs}/{schema.node_id}/ar.md", timeout=60).status_code == 404
    for _, name in PICTURE.findall(english(schema)):
        assert server.get(f"{docs}/{name}").content == (DOCS / name).read_bytes()


@pytest.mark.soak
def test_the_info_panel_shows_the_french_page_in_french(page):
    """In make test the server has the French page (above), and the English one is shown (test_browser.py)."""
    set_locale = "locale => window.app.extensionManager.setting.set('Comfy.Locale', locale)"
    page.evaluate(set_locale, "fr")
    try:
        page.reload()
        browser.wait_until_ready(page)
        browser.load_workflow(page, SAVED["vega_txt2img"])
        open_help(page, "VegaLoader")
        page.get_by_text("L'autoencodeur qui produit les pixels.").first.wait_for()
        page.locator("img[src*='VegaLoader.webp']").first.evaluate("image => image.decode()")
        assert page.get_by_text("Which autoencoder makes the pixels.").count() == 0
    finally:
        page.evaluate(set_locale, "en")
