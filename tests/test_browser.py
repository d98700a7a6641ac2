"""A newcomer's first minute: the real frontend in Chromium opens the workflow, runs it and shows the picture."""

import json
from pathlib import Path

import pytest
from machine_lacks import program

WORKFLOW = Path(__file__).resolve().parents[1] / "workflows" / "vega_txt2img.json"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def page(server, tmp_path_factory):
    chromium = program("chromium")
    from playwright.sync_api import sync_playwright

    profile = tmp_path_factory.mktemp("profile")
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=chromium, args=FLAGS, viewport={"width": 1600, "height": 900}
        )
        page = context.new_page()
        page.set_default_timeout(180_000)
        page.goto(server.url)
        page.wait_for_function("!!(window.app?.graph && window.LiteGraph?.registered_node_types?.VegaLoader)")
        yield page
        context.close()


def test_the_workflow_opens_runs_and_shows_its_picture(page, server, tmp_path):
    workflow = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    page.evaluate("workflow => window.app.loadGraphData(workflow)", workflow)
    page.wait_for_function(f"window.app.graph._nodes.length === {len(workflow['nodes'])}")
    # What the frontend could not make is drawn as an error and has no constructor of its own type.
    missing = page.evaluate("window.app.graph._nodes.filter(n => n.has_errors || !n.constructor.type).map(n => n.type)")
    assert missing == []
    assert page.get_by_text("Missing Node Types").count() == 0
    before = set(server.get("/history").json())
    page.evaluate("window.app.queuePrompt(0)")
    page.wait_for_function("window.app.graph._nodes.find(n => n.type === 'SaveImage').imgs?.length === 1")
    page.keyboard.press("Escape")  # the first visit opens the template browser on top
    page.screenshot(path=tmp_path / "drawn.png")
    (new,) = set(server.get("/history").json()) - before
    entry = server.get(f"/history/{new}").json()[new]
    assert entry["status"]["status_str"] == "success"
    loaded = page.evaluate("window.app.graph._nodes.find(n => n.type === 'SaveImage').imgs[0].naturalWidth")
    assert loaded == 128


def test_refresh_shows_a_new_file(page, server):
    """What the R key does."""
    (server.base / "models" / "checkpoints" / "new.safetensors").write_bytes(b"")
    widget = "window.app.graph._nodes.find(n => n.type === 'VegaLoader').widgets.find(w => w.name === 'model_name')"
    assert "new.safetensors" not in page.evaluate(f"{widget}.options.values")
    page.evaluate("window.app.extensionManager.command.execute('Comfy.RefreshNodeDefinitions')")
    page.wait_for_function(f"{widget}.options.values.includes('new.safetensors')")


@pytest.mark.parametrize("format", ["jpeg", "webp", "png"])
def test_send_image_shows_its_picture(page, server, format, tmp_path):
    page.evaluate(
        """format => {
            const graph = window.app.graph
            graph.clear()
            const [picture, send] = ['EmptyImage', 'VegaSendImage'].map(type => window.LiteGraph.createNode(type))
            graph.add(picture)
            graph.add(send)
            send.pos = [400, 0]
            picture.connect(0, send, 0)
            send.widgets.find(w => w.name === 'format').value = format
        }""",
        format,
    )
    send = "window.app.graph._nodes.find(n => n.type === 'VegaSendImage')"
    shown = f"{send}?.imgs?.length === 1 && {send}.imgs[0].naturalWidth === 512"
    page.evaluate("window.app.queuePrompt(0)")
    page.wait_for_function(shown)
    page.wait_for_function("window.app.ui.lastQueueSize === 0")
    page.wait_for_timeout(1000)  # the end of the prompt must not take the picture away
    assert page.evaluate(shown)
    page.screenshot(path=tmp_path / "sent.png")
    url = page.evaluate(f"window.app.nodeOutputs[{send}.id].sent[0].url")
    if format != "jpeg":  # the browser can't read a JPEG's workflow
        page.evaluate("window.app.graph.clear()")
        page.evaluate(
            """async url => {
                const blob = await (await fetch(url)).blob()
                await window.app.handleFile(new File([blob], 'dropped', { type: blob.type }))
            }""",
            url,
        )
        page.wait_for_function(f"{send}?.widgets.find(w => w.name === 'format').value === '{format}'")
