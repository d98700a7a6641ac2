"""Every text that people see is translated: locales/<language>/nodeDefs.json against the nodes' schemas.

English is in the schemas alone. An output's name is translated by ComfyUI's browser itself where it is the name of its type.
"""

import json
import re
from pathlib import Path

import pytest
import shown

LOCALES = Path(__file__).resolve().parents[1] / "locales"
# Texts that are the same in a language as in English: each one on purpose.
SAME = {
    "zh": {"VAE", "CLIP", "CFG"},
    "zh-TW": {"VAE", "CLIP", "CFG"},
    "ja": {"VAE", "CLIP", "CFG"},
    "ko": {"VAE", "CLIP", "CFG", "KSampler (Vega LCM)"},
    "fr": {"VAE", "CLIP", "KSampler (Vega LCM)", "seed", "mode", "images", "image", "format", "cfg", "eta"},
    "de": {"VAE", "CLIP", "KSampler (Vega LCM)", "Seed", "Format", "CFG", "Eta"},
    "es": {"VAE", "CLIP", "KSampler (Vega LCM)", "cfg", "eta"},
    "ru": {"VAE", "CLIP", "KSampler (Vega LCM)", "CFG"},
}
# What no language changes: numbers, paths, code, our names, and words of several capitals (GPU, LoRA, UNet, WebP).
CODE = re.compile(r"torch\.compile|vega-nano|Vega|\+ k\b|[\w:/;]*[\d_/][\w:/;,.]*|\b[A-Za-z]*[A-Z][a-z]*[A-Z]\w*")


def leaves(tree: dict, *path: str):
    for key, value in tree.items():
        yield from leaves(value, *path, key) if isinstance(value, dict) else [((*path, key), value)]


def english() -> dict[tuple[str, ...], str]:
    """(node, "inputs", id, "tooltip") and the like -> the schema's text, by the keys that ComfyUI's browser looks up."""
    texts = {}
    for schema in shown.NODES:
        texts[schema.node_id, "display_name"] = schema.display_name
        texts[schema.node_id, "description"] = schema.description
        for slot in schema.inputs:
            texts[schema.node_id, "inputs", slot.id, "name"] = slot.display_name or slot.id
            texts[schema.node_id, "inputs", slot.id, "tooltip"] = slot.tooltip
        for index, slot in enumerate(schema.outputs):
            if slot.display_name and slot.display_name != slot.io_type:
                texts[schema.node_id, "outputs", str(index), "name"] = slot.display_name
            texts[schema.node_id, "outputs", str(index), "tooltip"] = slot.tooltip
    return texts


ENGLISH = english()
NAMES = {schema.display_name: (schema.node_id, "display_name") for schema in shown.NODES}
CHOICES = {schema.node_id: shown.choices(schema) for schema in shown.NODES}


def translations(language: str) -> dict[tuple[str, ...], str]:
    return dict(leaves(json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))))


def pairs(language: str) -> list[tuple[tuple[str, ...], str, str]]:
    """(key, English, translation) of each text that has both."""
    found = translations(language)
    return [(key, text, found[key]) for key, text in ENGLISH.items() if key in found]


def must_stay(key: tuple[str, ...], text: str) -> set[str]:
    """What of an English text every translation has to keep; other nodes' names have their own test."""
    words = {choice for choice in CHOICES[key[0]] if re.search(rf"\b{choice}\b", text)}
    for name in NAMES:
        if name in text and key[-1] != "display_name":
            words |= {choice for choice in CHOICES[NAMES[name][0]] if re.search(rf"\b{choice}\b", text)}
            text = text.replace(name, "")
    words |= {re.sub(r"(?<=[A-Z])s$", "", word.rstrip(".,;:")) for word in CODE.findall(text)}
    return words - {"KSampler"}  # ComfyUI has its own words for it


def test_these_are_the_languages():
    assert {folder.name for folder in LOCALES.iterdir()} == SAME.keys()
    assert {file.name for file in LOCALES.glob("*/*")} == {"nodeDefs.json"}


@pytest.mark.parametrize("language", SAME)
def test_each_text_has_its_translation_and_no_other(language):
    found = translations(language)
    assert sorted(ENGLISH.keys() - found.keys()) == []
    assert sorted(found.keys() - ENGLISH.keys()) == []
    assert [key for key, text in found.items() if not text.strip()] == []


@pytest.mark.parametrize("language", SAME)
def test_nothing_is_left_in_english_by_mistake(language):
    assert {text for _, here, text in pairs(language) if text.casefold() == here.casefold()} == SAME[language]
    for key, here, text in pairs(language):
        clauses = [clause for clause in re.split(r"[.,;:]", here) if len(clause.split()) > 3]
        assert not [clause for clause in clauses if clause in text], ".".join(key)


@pytest.mark.parametrize("language", SAME)
def test_code_words_are_kept(language):
    found = translations(language)
    for key, here, text in pairs(language):
        for word in must_stay(key, here):
            # An input's id is not what is on the screen in another language.
            label = found.get((key[0], "inputs", word, "name"), word)
            assert word in text or label in text, f"{'.'.join(key)} has lost {word!r}: {text}"


@pytest.mark.parametrize("language", SAME)
def test_nodes_are_called_as_they_are_shown(language):
    found = translations(language)
    for key, here, text in pairs(language):
        for shown_as in (found[node] for name, node in NAMES.items() if name in here):
            assert shown_as in text, f"{'.'.join(key)} does not name {shown_as}: {text}"


@pytest.mark.parametrize("language", SAME)
def test_names_are_no_code_to_the_browser(language):
    """It compiles names and descriptions as messages of vue-i18n, where these characters mean something; tooltips not."""
    for key, text in translations(language).items():
        if key[-1] != "tooltip":
            assert not re.search(r"[@{}|%]", text), ".".join(key)


def test_the_server_gives_them_out(server):
    served = server.get("/i18n").json()
    for language in SAME:
        assert dict(leaves(served[language]["nodeDefs"])) == translations(language)
