"""What people do in ComfyUI's page: the real frontend in a real Chromium against the real server."""

import json
import re
import statistics
import time
from pathlib import Path

import distilled_loras
import numpy as np
import pytest
import torch
from api_calls import wait_for
from page_graphs import SAVED, open_help, read, refresh
from PIL import Image
from safetensors.torch import save
from template_cards import open_card

from dev import browser
from dev.browser import node_js, widget_js

ROOT = Path(__file__).resolve().parents[1]
NANO_DIR = ROOT / "vega" / "nano"
LETTERS = 9  # typed one at a time


@pytest.fixture(autouse=True)
def calm(page):
    """Each test begins without complaints and errors, and as people find the queue."""
    page.console_errors.clear()
    yield
    page.evaluate("window.app.extensionManager.queueSettings.mode = 'disabled'")


def test_the_page_misses_no_lora_that_is_found(page, place, tmp_path):
    """Of the template's two files it offers the other one alone. The first test here, as it leaves missing files open."""
    content = distilled_loras.kohya(tmp_path / "lora.safetensors", "Segmind-Vega").read_bytes()
    place("loras/pytorch_lora_weights (1).safetensors", content)  # as a browser saved it
    refresh(page)
    open_card(page, "vega_txt2img_1024")
    page.get_by_test_id("error-overlay-see-errors").click()
    assert page.get_by_text("segmind-vega.safetensors", exact=True).count()
    assert page.get_by_test_id("missing-model-download").count() == 1
    page.get_by_label("Toggle properties panel").click()


def test_the_picture_follows_the_typing(page, server):
    template, typed = SAVED["vega_live_drawing"], "noon, the sea with a boat"
    (sender,) = (str(one["id"]) for one in template["nodes"] if one["type"] == "VegaSendImage")
    browser.load_workflow(page, template)
    page.get_by_test_id("queue-mode-menu-trigger").click()
    page.get_by_role("menuitem", name="Run (On Change)").click()
    browser.run_workflow(page)
    shown = f"{node_js('VegaSendImage')}.imgs?.[0]?.src"
    browser.center_node(page, "CLIPTextEncode")
    box = page.get_by_test_id("dom-widget-textarea").first
    box.click()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type(typed)

    def files() -> list[str]:
        """The pictures of what was typed to its last letter, as /history has them."""
        done = [entry for entry in server.get("/history").json().values() if typed in json.dumps(entry["prompt"][2])]
        return [image["filename"] for entry in done for image in entry["outputs"][sender]["images"]]

    wait_for(files)
    browser.center_node(page, "VegaSendImage")
    page.wait_for_function(f"{shown}?.includes({json.dumps(files()[-1])})")
    seen = read(browser.shown_image(page, "VegaSendImage"))
    assert (seen["time"], seen["terrain"], seen["object"]) == ("day", "sea", "boat")


def test_typing_draws_only_in_live_mode_and_our_graphs(page, server):
    """Typing draws nothing in the other modes, nor in graphs without our sampler."""

    def typed():
        before = server.get("/history").json().keys()
        browser.center_node(page, "CLIPTextEncode")
        box = page.get_by_test_id("dom-widget-textarea").first
        box.click()
        page.keyboard.type(" more")
        page.wait_for_timeout(1500)
        return server.get("/history").json().keys() - before or server.get("/queue").json()["queue_running"]

    browser.load_workflow(page, SAVED["vega_txt2img"])
    assert not typed()
    page.evaluate(f"window.app.graph.remove({node_js('VegaLCMSampler')})")
    page.evaluate("window.app.extensionManager.queueSettings.mode = 'change'")
    assert not typed()


WRONG = [
    ("VegaLCMLora", "lora_name", "style.safetensors", ("style.safetensors", "choose an LCM-LoRA")),
    ("VegaLoader", "model_name", "gone.safetensors", ("no model 'gone.safetensors'", "press R and choose another")),
    ("VegaLoader", "model_name", "broken.safetensors", ("broken.safetensors", "Download or copy it again")),
    ("VegaLoader", "model_name", "half/", ("half", "unet/config.json is missing", "Download it again")),
    ("VegaLoader", "vae", "full", ("only a tiny autoencoder", "set vae to `tiny`")),
    ("VegaLCMLora", "lora_name", "gone.safetensors", ("no LoRA 'gone.safetensors'", "press R and choose another")),
    ("VegaLCMSampler", "denoise", 0.05, ("at most 2 steps", "lower steps to 2, or raise denoise to 0.08")),
]
SHOWN_NAMES = {"VegaLoader": "Load Vega", "VegaLCMLora": "Apply LCM-LoRA (Vega)", "VegaLCMSampler": "KSampler (Vega LCM)"}


# One that fails as it runs and one that is refused before; what others say is in test_bad_input.py.
@pytest.mark.parametrize(
    ("kind", "name", "value", "said"), [*WRONG[:2], *(pytest.param(*wrong, marks=pytest.mark.soak) for wrong in WRONG[2:])]
)
def test_a_wrong_choice_is_outlined_and_says_what_to_do(page, place, kind, name, value, said, tmp_path):
    part = "lora_unet_down_blocks_1_attentions_0_proj_in"
    weights = {f"{part}.lora_down.weight": torch.zeros(4, 64, 1, 1), f"{part}.lora_up.weight": torch.zeros(64, 4, 1, 1)}
    place("loras/style.safetensors", save(weights))
    place("checkpoints/broken.safetensors", b"no model")
    place("diffusers/half/model_index.json", b"{}")
    browser.load_workflow(page, SAVED["vega_txt2img"])
    page.evaluate(f"{widget_js(kind, name)}.value = {json.dumps(value)}")
    page.get_by_test_id("queue-button").click()
    toast = page.locator(".vega-error")
    toast.wait_for()
    assert toast.get_attribute("role") == "alert"
    for words in (SHOWN_NAMES[kind], *said):
        assert words.replace("`", "") in toast.inner_text()
    toast.get_by_role("button", name="Show the node").click()
    assert page.evaluate("[...window.app.canvas.selectedItems].map(item => item.type)") == [kind]
    toast.get_by_role("button", name="Close").click()
    toast.wait_for(state="detached")
    page.get_by_test_id("error-overlay-see-errors").click()
    if str(value).startswith("gone"):  # what is refused before anything runs is one click further away
        page.get_by_label(f"Info for {SHOWN_NAMES[kind]}").click()
    for words in said:
        page.get_by_text(words).first.wait_for()
    assert browser.outlined_nodes(page) == [kind]
    page.screenshot(path=tmp_path / f"{kind}-{name}.png")


@pytest.mark.soak
def test_interrupt_stops_within_a_step(page, server):
    """In make test test_bad_input.py interrupts, by the request that the page's button sends."""
    browser.load_workflow(page, SAVED["vega_txt2img"])
    page.evaluate(f"{widget_js('VegaLCMSampler', 'steps')}.value = 50")
    page.evaluate(f"{widget_js('VegaLCMSampler', 'seed')}.value = 987654")
    for side in ("width", "height"):  # so large that a step takes longer than a click
        page.evaluate(f"{widget_js('EmptyLatentImage', side)}.value = 512")
    page.evaluate(
        """() => {
            window.steps = []
            window.app.api.addEventListener('progress', ({ detail }) => {
                if (detail.max === 50) window.steps.push(detail.value)
            })
        }"""
    )
    before = server.get("/history").json().keys()
    page.get_by_test_id("queue-button").click()
    page.wait_for_function("window.steps.some(step => step >= 2)")
    page.get_by_label("Cancel current run").click()
    at = page.evaluate("window.steps.at(-1)")
    wait_for(lambda: server.get("/history").json().keys() - before)
    assert page.evaluate("window.steps.at(-1)") <= at + 2, "the step that ran, and one that began before the click came"
    assert browser.outlined_nodes(page) == []


def test_refresh_shows_a_new_file(page, place):
    browser.load_workflow(page, SAVED["vega_txt2img"])
    values = f"{widget_js('VegaLoader', 'model_name')}.options.values"
    assert "new.safetensors" not in page.evaluate(values)
    place("checkpoints/new.safetensors")
    refresh(page)
    page.wait_for_function(f"{values}.includes('new.safetensors')")


def test_only_what_the_mask_editor_paints_changes(page, server):
    """What is painted in the mask editor changes, and nothing else.

    An own picture, wider than high, put into the inpaint template as its note tells and painted at its right edge.
    """
    y, x = np.mgrid[:200, :420]
    before = np.stack([60 + x / 4, 100 + y / 2, 200 - x / 5], axis=-1).astype(np.uint8)
    Image.fromarray(before).save(server.base / "input" / "painted.png")
    browser.load_workflow(page, SAVED["vega_inpaint"])
    refresh(page)
    page.evaluate(
        """async () => {
            const node = window.LiteGraph.createNode('LoadImage')
            window.app.graph.add(node)
            node.pos = [-700, 600]
            node.widgets.find(w => w.name === 'image').value = 'painted.png'
            node.widgets.find(w => w.name === 'image').callback?.('painted.png')
            const target = window.app.graph.nodes.find(n => n.title === 'Picture and mask')
            for (const [slot, name] of [[0, 'image'], [1, 'alpha']])
                node.connect(slot, target, target.inputs.findIndex(input => input.name === name))
            window.app.canvas.select(node)
        }"""
    )
    browser.shown_image(page, "LoadImage")
    page.evaluate(f"window.app.canvas.select({node_js('LoadImage')})")
    page.evaluate("window.app.extensionManager.command.execute('Comfy.MaskEditor.OpenMaskEditor')")
    zone = page.get_by_test_id("pointer-zone")
    zone.wait_for()
    page.wait_for_timeout(2000)  # until the picture is fitted into the window
    frame = zone.bounding_box()
    right, middle = frame["x"] + frame["width"], frame["y"] + frame["height"] / 2
    page.mouse.move(right - 150, middle - 200)
    page.mouse.down()
    for k in range(8):
        page.mouse.move(right - (2 if k % 2 else 150), middle - 200 + 30 * k, steps=10)
    page.mouse.up()
    page.get_by_role("button", name="Save").click()
    page.wait_for_function(f"{widget_js('LoadImage', 'image')}.value !== 'painted.png'")
    zone.wait_for(state="hidden")
    page.evaluate("window.app.canvas.deselectAll()")  # or only the selected node is brought into sight
    assert browser.run_workflow(page) == "execution_success"
    after = np.asarray(browser.shown_image(page, "SaveImage").convert("RGB"))
    name = page.evaluate(f"{widget_js('LoadImage', 'image')}.value").removesuffix(" [input]")
    painted = np.asarray(Image.open(server.base / "input" / name))[..., 3] < 255
    assert 0.03 < painted.mean() < 0.2
    changed = (after != before).any(axis=-1)
    assert not changed[~painted].any()
    assert changed[painted].mean() > 0.5


def test_the_help_page_is_shown_with_its_picture(page):
    browser.load_workflow(page, SAVED["vega_txt2img"])
    open_help(page, "VegaLoader")
    page.get_by_text("Which autoencoder makes the pixels.").first.wait_for()
    page.locator("img[src*='VegaLoader.webp']").first.evaluate("image => image.decode()")


@pytest.mark.parametrize(
    ("typed", "node_name"),
    [("segmind vega", "Load Vega"), pytest.param("few step", "Apply LCM-LoRA (Vega)", marks=pytest.mark.soak)],
)
def test_a_node_is_found_by_other_words(page, typed, node_name):
    page.evaluate("window.app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
    page.keyboard.type(typed)
    page.get_by_text(node_name, exact=True).first.wait_for()
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")


def test_the_readme_counts_the_languages_that_can_be_chosen(page):
    """In ComfyUI's own list. A translation for which it has no entry (German, today) nobody sees."""
    offered = page.evaluate("window.app.ui.settings.settingsParamLookup['Comfy.Locale'].options.map(o => o.value)")
    ours = {folder.name for folder in (ROOT / "locales").iterdir()}
    (told,) = re.findall(r"(\w+) other languages", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert ["five", "six", "seven", "eight", "nine", "ten"].index(told) + 5 == len(ours & set(offered))
    assert {"en"} <= set(offered) - ours


@pytest.mark.soak
def test_a_letter_is_drawn_within_twice_the_models_own_time(page, server, client, record_property):
    prompt = json.loads((ROOT / "workflows" / "api" / "vega_live_drawing.json").read_text(encoding="utf-8"))
    (text,) = [one["inputs"] for one in prompt.values() if one["class_type"] == "CLIPTextEncode"]

    def own_time(k: int) -> float:
        text["text"] = f"night, desert, full moon {k}"
        began = {kind: time.perf_counter() for kind, _ in client.events(client.queue(prompt))}
        return began["executed"] - began["execution_start"]

    browser.load_workflow(page, SAVED["vega_live_drawing"])
    browser.run_workflow(page)
    page.wait_for_function(f"!!{node_js('VegaSendImage')}.imgs")
    page.evaluate("window.app.extensionManager.queueSettings.mode = 'change'")
    page.evaluate(
        f"""() => {{
            const send = {node_js("VegaSendImage")}
            window.waits = []
            let typed = 0, last = send.imgs[0].src
            document.addEventListener('input', () => (typed = performance.now()), true)
            const look = () => {{
                const now = send.imgs?.[0]?.src
                if (now && now !== last) [last, typed] = [now, window.waits.push(performance.now() - typed)]
                requestAnimationFrame(look)
            }}
            look()
        }}"""
    )
    page.get_by_test_id("dom-widget-textarea").first.click()
    for k in range(LETTERS):
        page.keyboard.type(str(k))
        page.wait_for_function(f"window.waits.length === {k + 1} && window.app.ui.lastQueueSize === 0")
    wait = statistics.median(page.evaluate("window.waits")) / 1000
    own = statistics.median(own_time(k) for k in range(LETTERS))
    record_property("model ms", round(1000 * own))
    record_property("letter to picture ms", round(1000 * wait))
    assert wait <= 2 * own
