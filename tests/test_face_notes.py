"""What the notes on nodes' faces are made from: known words, sizes, what was loaded, what Accelerate does."""

import re
from pathlib import Path

import pytest
import torch
from graph_recorder import Recorder, draw
from vega_pack.nodes import face_notes, lora_loader
from vega_pack.nodes.lcm_lora import RECIPE_NOTES
from vega_pack.nodes.lcm_sampler import size_notes
from vega_pack.vega import accelerate, known_words, model_facts, trained_size
from vega_pack.vega.style_lora import AppliedLora

from train.nano import captions

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def reported(nano):
    """Tokenizes a prompt with vega-nano's CLIP, watched; gives the words that were reported, or None."""
    clip = nano[1].clone()
    tokenize, found = clip.tokenizer.tokenize_with_weights, []
    known_words.hook_tokenizer(clip, found.append)

    def reported(prompt: str, clip=clip) -> list[str] | None:
        found.clear()
        clip.tokenize(prompt)
        return found[0] if found else None

    yield reported
    clip.tokenizer.tokenize_with_weights = tokenize


WORDINGS = {wording for table in captions.TABLES for wordings in table.values() for wording in wordings}
UNKNOWN = [*captions.UNKNOWN, "portrait of a smiling woman", "a beautiful painting of a cat", "(a red-haired elf:1.3)", "人"]


@pytest.mark.parametrize("prompt", sorted(WORDINGS) + ["portrait of a woman at night", "a (lake:1.2)", "LAKE", "cat, lake"])
def test_a_prompt_with_a_known_word_is_left_alone(reported, prompt):
    """Every wording that vega-nano was trained on is known."""
    assert reported(prompt) is None


@pytest.mark.parametrize("prompt", [prompt for prompt in UNKNOWN if "red" not in prompt])
def test_a_prompt_without_a_known_word_is_reported(reported, prompt):
    assert reported(prompt) == ["night", "sunset", "mountains", "forest", "lake"]


def test_the_help_page_lists_known_words(reported):
    page = (ROOT / "web" / "docs" / "VegaLoader.md").read_text(encoding="utf-8")
    words = re.split(r"[,;]\s+(?:and )?", re.search(r"Its words are: (.*?) beside them", page, re.DOTALL)[1])
    assert len(words) > 50
    assert [word for word in words if reported(word)] == []


@pytest.mark.parametrize("prompt", ["", "  ", "...", ", ,"])
def test_a_prompt_without_words_is_left_alone(reported, prompt):
    assert reported(prompt) is None


def test_clones_of_the_clip_are_watched_too(reported, nano):
    assert reported("a cat", nano[1].clone())


def test_long_prompts_are_read_to_their_end(reported):
    """The host splits prompts into chunks of 77 tokens."""
    assert reported("cat " * 200)
    assert reported("cat " * 200 + "lake") is None


@pytest.mark.model
def test_a_clip_that_knows_every_token_is_not_watched(small):
    clip = small["SD 1.5"][2]
    known_words.hook_tokenizer(clip, pytest.fail)
    assert "tokenize_with_weights" not in vars(clip.tokenizer)


# vega/nano/README.md: what it was trained on and is scored at, 128 to 320 on a side.
GOOD = {
    trained_size.NANO_TRAINED_SIZE: [(128, 128), (128, 320), (192, 192), (256, 256), (320, 128), (320, 320), (232, 160)],
    trained_size.of_side(1024): [(1024, 1024), (768, 768), (1344, 768), (832, 1216), (640, 1536), (2048, 512), (1536, 1536)],
    trained_size.of_side(552): [(552, 552), (1104, 144)],
    trained_size.of_side(512): [(512, 512), (512, 768), (768, 512), (768, 768), (384, 512), (640, 448)],
}
BAD = [  # the side that it was trained on, the size, the size to use
    (trained_size.NANO_TRAINED_SIZE, (512, 512), (256, 256)),
    (trained_size.NANO_TRAINED_SIZE, (64, 64), (256, 256)),
    (trained_size.NANO_TRAINED_SIZE, (192, 96), (320, 160)),
    (trained_size.NANO_TRAINED_SIZE, (256, 512), (160, 320)),
    (trained_size.NANO_TRAINED_SIZE, (640, 128), (320, 128)),
    (trained_size.NANO_TRAINED_SIZE, (344, 200), (320, 192)),
    (trained_size.of_side(1024), (256, 256), (1024, 1024)),
    (trained_size.of_side(1024), (512, 512), (1024, 1024)),
    (trained_size.of_side(1024), (512, 768), (832, 1280)),
    (trained_size.of_side(1024), (2048, 2048), (1024, 1024)),
    (trained_size.of_side(1024), (2560, 512), (2048, 384)),
    (trained_size.of_side(512), (1024, 1024), (512, 512)),
    (trained_size.of_side(512), (256, 256), (512, 512)),
]


@pytest.mark.parametrize(("trained", "size"), [(trained, size) for trained in GOOD for size in GOOD[trained]])
def test_usual_sizes_are_fine(trained, size):
    assert trained_size.suggest_size(*size, trained) is None


@pytest.mark.parametrize(("trained", "size", "better"), BAD)
def test_far_sizes_get_a_better_one(trained, size, better):
    assert trained_size.suggest_size(*size, trained) == better
    assert trained_size.suggest_size(*better, trained) is None


def test_the_size_to_use_is_always_a_fine_one():
    for trained in GOOD:
        for width in range(64, 2049, 64):
            for height in range(64, 2049, 192):
                if better := trained_size.suggest_size(width, height, trained):
                    assert trained_size.suggest_size(*better, trained) is None, (trained, width, height)
                    assert all(side % 32 == 0 for side in better)


@pytest.mark.model
def test_a_model_carries_its_size_through_clones(few_step, small):
    """And the sampler's note has it; a model of another loader has none."""
    assert trained_size.of_model(few_step) == (256, 128**2, 320**2, 128, 320)
    modules, model, _ = small["small-sd"]
    assert trained_size.of_model(model.clone()).side_px == 8 * modules["unet"].config.sample_size
    (note,) = size_notes(few_step, {"samples": torch.zeros(1, 4, 64, 64)})
    assert (note.values, note.is_warning) == ({"size": "512 x 512", "better": "256 x 256"}, True)
    assert size_notes(few_step, {"samples": torch.zeros(1, 4, 24, 24)}) == []
    stranger = few_step.clone()
    stranger.remove_attachments(trained_size.ATTACHMENT_KEY)
    assert size_notes(stranger, {"samples": torch.zeros(1, 4, 64, 64)}) == []


def test_what_was_loaded_is_named(nano, vega):
    """vega-nano's numbers are those of its README."""
    dtype = {torch.float32: "fp32", torch.float16: "fp16"}[next(nano[0].model.diffusion_model.parameters()).dtype]
    assert model_facts.of_model(nano[0]) == ("vega-nano", dtype, "6.7M")
    assert model_facts.of_model(vega[1]).family == "SDXL family"  # Vega's blocks with few channels: no published model
    sizes = {745_000_000: "745M", 2_567_463_684: "2.6B", 6_700_000: "6.7M", 12_300: "12K", 900: "900"}
    assert {number: model_facts.format_count(number) for number in sizes} == sizes


@pytest.mark.usefixtures("inference")
def test_accelerate_tells_what_becomes_of_its_calls(few_step, positive):
    """Each state once a run, with the size in pixels."""
    told = []
    fast = accelerate.apply(few_step, "cuda graph", Recorder(), report=lambda *state: told.append(state))
    draw(fast, positive, steps=3, width=16)
    assert told == [(state, 128, 64) for state in ("firstRun", "recording", "replaying")]
    told.clear()
    draw(fast, positive, steps=3, width=16)
    assert told == [("replaying", 128, 64)]
    told.clear()
    changed = fast.clone()
    changed.model_options["transformer_options"]["patches"] = {"another pack's": []}
    draw(changed, positive, steps=3, width=16)
    assert told == [("notUsed", 128, 64)]
    assert set(accelerate.STATES) >= {state for state, *_ in told}


@pytest.mark.parametrize(
    ("applied", "strengths", "expected"),
    [
        (AppliedLora("", 70, 70, 0, False), (0.5, 1.0), [("applied", {"count": 70, "total": 70, "strength": "0.5"})]),
        (AppliedLora("", 70, 80, 0, False), (1.0, 1.0), [("applied", {"count": 70, "total": 80, "strength": "1.0"})]),
        (AppliedLora("", 0, 70, 0, False), (0.0, 1.0), [("strengthZero", {})]),
        (AppliedLora("", 0, 0, 12, False), (1.0, 0.7), [("appliedText", {"count": 12, "strength": "0.7"})]),
        (AppliedLora("", 0, 0, 0, True), (1.0, 1.0), [("noClip", {})]),
    ],
)
def test_load_lora_says_what_is_on_which_part(applied, strengths, expected):
    """And warns where a part is left out."""
    notes = lora_loader.lora_notes(applied, *strengths)
    assert [(note.key, note.values) for note in notes] == expected
    assert [note.is_warning for note in notes] == [note.key == "noClip" for note in notes]


TEXTS = (ROOT / "web" / "js" / "note_texts.js").read_text(encoding="utf-8")
TABLE = re.findall(r"^  \"?([\w-]+)\"?: \{\n(.*?)^  \},$", TEXTS, re.DOTALL | re.MULTILINE)


def test_each_sentence_is_there_in_every_language():
    """With the same values in its braces; and each key that the server sends is one of them."""
    tables = {lang: dict(re.findall(r'^    (\w+): "(.*)",$', lines, re.MULTILINE)) for lang, lines in TABLE}
    assert set(tables) == {"en", "es", "fr", "ja", "ko", "ru", "zh", "zh-TW"}
    values = {key: sorted(re.findall(r"\{\w+\}", text)) for key, text in tables["en"].items()}
    for table in tables.values():
        assert {key: sorted(re.findall(r"\{\w+\}", text)) for key, text in table.items()} == values
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "nodes").glob("*.py"))
    sent = set(re.findall(r'Note\("(\w+)"', sources)) | {*accelerate.STATES, "on", "off", "noGpu", *RECIPE_NOTES.values()}
    assert set(values) == sent


GRAPH = {
    "1": {"class_type": "VegaLoader", "inputs": {"model_name": "a", "vae": "tiny"}},
    "2": {"class_type": "VegaAccelerate", "inputs": {"model": ["1", 0], "mode": "auto"}},
    "3": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "night"}},
    "4": {"class_type": "KSampler", "inputs": {"model": ["2", 0], "positive": ["3", 0], "seed": 1}},
    "5": {"class_type": "VegaTinyVAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
}


def changed(node_id: str, **inputs) -> dict:
    return {**GRAPH, node_id: {**GRAPH[node_id], "inputs": {**GRAPH[node_id]["inputs"], **inputs}}}


@pytest.mark.parametrize(
    ("graph", "others"),
    [
        (changed("4", seed=2), {"5"}),
        (changed("5", samples=["3", 0]), {"5"}),
        (changed("3", text="day"), {"3", "4", "5"}),
        (changed("1", model_name="b"), {"1", "2", "3", "4", "5"}),
        (changed("3", clip=["1", 0]), {"3", "4", "5"}),
    ],
)
def test_a_note_is_of_all_that_goes_into_its_node(graph, others):
    """Except the seed, on which the note of a black picture alone depends."""
    before, after = ({id: face_notes.signature(one, id) for id in one} for one in (GRAPH, graph))
    assert {id for id in GRAPH if before[id] != after[id]} == others
    assert len(set(before.values())) == len(GRAPH)


def test_a_note_is_the_same_under_other_ids():
    """As in another workflow, whose nodes the host's cache knows, too; and however deep the graph is."""
    renamed = {f"10{id}": {**node, "inputs": dict(reversed(node["inputs"].items()))} for id, node in GRAPH.items()}
    for node in renamed.values():
        node["inputs"] = {n: [f"10{v[0]}", v[1]] if isinstance(v, list) else v for n, v in node["inputs"].items()}
    for id in GRAPH:
        assert face_notes.signature(GRAPH, id) == face_notes.signature(renamed, f"10{id}")
    deep = {str(k): {"class_type": "VegaLoraLoader", "inputs": {"model": [str(k + 1), 0]}} for k in range(5000)}
    assert face_notes.signature(deep, "0") != face_notes.signature(deep, "1")


def test_the_nearest_node_of_a_type_is_found():
    two = {**GRAPH, "5": {"class_type": "VegaAccelerate", "inputs": {"model": ["2", 0], "mode": "auto"}}}
    two["4"] = {"class_type": "KSampler", "inputs": {"model": ["5", 0]}}
    assert face_notes.find_upstream(GRAPH, "4", "VegaAccelerate") == "2"
    assert face_notes.find_upstream(two, "4", "VegaAccelerate") == "5"
    assert face_notes.find_upstream(GRAPH, "2", "VegaAccelerate") is None


def test_no_more_notes_are_kept_than_said(monkeypatch):
    monkeypatch.setattr(face_notes, "stored_notes", type(face_notes.stored_notes)())
    for k in range(face_notes.MAX_STORED_NOTES + 5):
        face_notes.store_notes("VegaLoader", str(k), [{"key": "on"}])
    assert next(iter(face_notes.stored_notes)) == ("VegaLoader", "5")
    assert len(face_notes.stored_notes) == face_notes.MAX_STORED_NOTES
