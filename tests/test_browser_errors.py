"""What a newcomer sees of an error, in a template from its card: the pack's message, and the way to the node by it."""

import json

import pytest
import torch
from page_graphs import refresh
from safetensors.torch import save
from template_cards import INSTANCE, face, open_card, prompt_box, set_renderer

from dev import browser

ATTENTION = "lora_unet_down_blocks_1_attentions_0_proj_in"
# The widget on the subgraph's face, its wrong value, the node inside that complains, and what it says.
WRONG = [
    ("lcm_lora", "style.safetensors", "VegaLCMLora", ("style.safetensors", "choose an LCM-LoRA")),
    ("lcm_lora", "gone.safetensors", "VegaLCMLora", ("no LoRA 'gone.safetensors'", "press R and choose another")),
    ("model", "gone.safetensors", "VegaLoader", ("no model 'gone.safetensors'", "press R and choose another")),
    ("model", "broken.safetensors", "VegaLoader", ("broken.safetensors", "Download or copy it again")),
    ("model", "half/", "VegaLoader", ("unet/config.json is missing", "Download it again")),
    ("denoise", 0.05, "VegaLCMSampler", ("at most 2 steps", "lower steps to 2, or raise denoise to 0.08")),
]
QUICK = ("Nodes 2.0", 5)  # others, in the classic renderer, are in test_browser.py
CASES = [
    pytest.param(renderer, *wrong, marks=[] if (renderer, k) == QUICK else pytest.mark.soak)
    for renderer in ("classic", "Nodes 2.0")
    for k, wrong in enumerate(WRONG)
]
SELECTED = "[...window.app.canvas.selectedItems].map(item => item.type)"
MIDDLE = "document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2)"


@pytest.fixture(autouse=True)
def calm(page):
    yield
    page.evaluate("window.app.canvas.setGraph(window.app.graph)")
    page.set_viewport_size({"width": 1600, "height": 900})


@pytest.fixture(scope="module")
def wrong_files(page, place):
    weights = {f"{ATTENTION}.lora_down.weight": torch.zeros(4, 64, 1, 1)}
    weights |= {f"{ATTENTION}.lora_up.weight": torch.zeros(64, 4, 1, 1)}
    place("loras/style.safetensors", save(weights))
    place("checkpoints/broken.safetensors", b"no model")
    place("diffusers/half/model_index.json", b"{}")
    refresh(page)


def is_free(page, locator) -> bool:
    """Whether nothing lies over the middle of an element."""
    return locator.evaluate(f"one => {{ const box = one.getBoundingClientRect(); return one.contains({MIDDLE}) }}")


def fails(page, name: str, value):
    """Sets a widget of the picture-to-picture template, presses Run, and gives our message."""
    open_card(page, "vega_img2img")
    page.evaluate(f"{face(name)}.value = {json.dumps(value)}")
    page.get_by_test_id("queue-button").click()
    message = page.locator(".vega-error")
    message.wait_for()
    return message


@pytest.mark.parametrize(("renderer", "name", "value", "kind", "said"), CASES, indirect=["renderer"])
def test_the_message_leads_to_the_node(page, wrong_files, renderer, name, value, kind, said):
    """It says what to do, hides neither Run nor the host's message, and its button selects the node in the subgraph."""
    page.set_viewport_size({"width": 1280, "height": 720})
    message = fails(page, name, value)
    for words in said:
        assert words in message.inner_text()
    assert message.get_attribute("role") == "alert"
    host = page.get_by_test_id("error-overlay-see-errors")
    host.wait_for()
    assert is_free(page, page.get_by_test_id("queue-button")) and is_free(page, host) and is_free(page, prompt_box(page))
    message.get_by_role("button", name="Show the node").click()
    page.wait_for_function(f"{SELECTED}.length === 1")
    assert page.evaluate(SELECTED) == [kind]
    assert page.evaluate("window.app.canvas.graph.id") == page.evaluate(f"{INSTANCE}.subgraph.id")
    page.wait_for_function("window.app.canvas.ds.scale >= 1")
    x, y = page.evaluate(
        """() => {
            const [{ pos, size }] = window.app.canvas.selectedItems
            return window.app.canvas.ds.convertOffsetToCanvas([pos[0] + size[0] / 2, pos[1] + size[1] / 2])
        }"""
    )
    assert (abs(x - 640) < 200, abs(y - 360) < 200) == (True, True)
    message.get_by_role("button", name="Close").click()
    message.wait_for(state="detached")


@pytest.mark.parametrize("renderer", ["Nodes 2.0"], indirect=True)
def test_keys_reach_the_message_and_close_it(page, wrong_files, renderer):
    """Tab comes to its buttons, Enter presses them, Escape closes it and leaves the subgraph open."""
    message = fails(page, "model", "gone.safetensors")
    focused = "document.activeElement.closest('.vega-error') && document.activeElement.textContent"
    for _ in range(100):
        page.keyboard.press("Tab")
        if page.evaluate(focused):
            break
    assert page.evaluate(focused) == "Show the node"
    page.keyboard.press("Enter")
    page.wait_for_function(f"{SELECTED}.length === 1")
    inside = page.evaluate(f"{INSTANCE}.subgraph.id")
    page.keyboard.press("Escape")
    message.wait_for(state="detached")
    assert page.evaluate("window.app.canvas.graph.id") == inside


def test_another_run_takes_the_message_away(page, wrong_files):
    message = fails(page, "model", "gone.safetensors")
    page.evaluate(f"{face('model')}.value = 'vega-nano (embedded)'")
    assert browser.run_workflow(page) == "execution_success"
    message.wait_for(state="detached")


@pytest.mark.soak
def test_the_message_leads_from_the_app_view_to_the_node(page, wrong_files):
    """The app view has no nodes: it is left."""
    open_card(page, "vega_img2img")
    page.evaluate(f"{face('model')}.value = 'gone.safetensors'")
    page.evaluate("window.app.extensionManager.command.execute('Comfy.ToggleLinear')")
    page.get_by_text("Number of runs").wait_for()
    run_button = page.get_by_role("button", name="Run", exact=True).last
    run_button.click()
    message = page.locator(".vega-error")
    message.wait_for()
    assert is_free(page, run_button)
    message.get_by_role("button", name="Show the node").click()
    page.get_by_text("Number of runs").wait_for(state="detached")
    page.wait_for_function(f"{SELECTED}.length === 1")
    assert page.evaluate(SELECTED) == ["VegaLoader"]
    assert page.locator("#graph-canvas").is_visible()
    set_renderer(page, "classic")  # the app view had turned Nodes 2.0 on
