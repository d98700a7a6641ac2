"""Where the pictures of Send Image come to in ComfyUI's page, and where they must not."""

from pathlib import Path

import pytest
from page_graphs import (
    OTHERS,
    SAVED,
    add_oracle,
    drop,
    fetched,
    named,
    open_tab,
    picture_in,
    queue,
    set_slow,
    state,
    wait_for_the_end,
)
from PIL import ImageChops

from dev import browser
from dev.browser import node_js, widget_js

ROOT = Path(__file__).resolve().parents[1]
NANO_DIR = ROOT / "vega" / "nano"


@pytest.fixture(autouse=True)
def calm(page):
    """Each test begins without complaints and errors, and as people find the queue."""
    page.console_errors.clear()
    yield
    page.evaluate("window.app.extensionManager.queueSettings.mode = 'disabled'")


# Others show a JPEG (test_browser.py), and drop a PNG of Send Image (below).
@pytest.mark.parametrize("format", ["webp", *(pytest.param(one, marks=pytest.mark.soak) for one in ("jpeg", "png"))])
def test_a_sent_picture_is_shown_and_is_the_graph(page, format):
    """A sent picture is shown on its node, and dropped on the canvas it is the graph again."""
    browser.load_workflow(page, SAVED["vega_send_image_api"])
    page.evaluate(f"{widget_js('VegaSendImage', 'format')}.value = '{format}'")
    browser.run_workflow(page)
    picture = browser.shown_image(page, "VegaSendImage")
    page.wait_for_timeout(1000)  # the end of the prompt must not take the picture away
    assert browser.shown_image(page, "VegaSendImage").size == picture.size == (128, 128)
    url = page.evaluate(f"window.app.nodeOutputs[{node_js('VegaSendImage')}.id].sent[0].url")
    if format != "jpeg":  # the browser can't read a JPEG's workflow
        drop(page, url, f"sent.{format}")
        page.wait_for_function(f"{widget_js('VegaSendImage', 'format')}?.value === '{format}'")


@pytest.mark.parametrize("other", [pytest.param("another workflow", marks=pytest.mark.soak), "the same workflow twice"])
def test_a_picture_stays_with_its_own_tab(page, server, other):
    """A picture that comes while another tab is open is shown in its own alone."""
    browser.load_workflow(page, SAVED[OTHERS[other]])
    browser.load_workflow(page, SAVED["vega_live_drawing"])
    add_oracle(page)
    set_slow(page, seed=len(other))
    page.evaluate(f"{widget_js('VegaSendImage', 'format')}.value = 'png'")
    ended = queue(page)
    open_tab(page, -2)
    page.wait_for_function(f"window.app.graph.nodes.length === {len(SAVED[OTHERS[other]]['nodes'])}")
    before = state(page)
    wait_for_the_end(page, ended)
    assert state(page) == before
    assert page.evaluate("Object.keys(window.app.nodePreviewImages)") == []
    assert page.evaluate("'7' in window.app.nodeOutputs") is False
    open_tab(page, -1)
    page.wait_for_function(f"!!{node_js('PreviewImage')}")
    picture, oracle = (browser.shown_image(page, kind).convert("RGB") for kind in ("VegaSendImage", "PreviewImage"))
    assert picture.tobytes() == fetched(server, named(server)).tobytes()
    apart = ImageChops.difference(picture, oracle).getextrema()
    assert max(most for _, most in apart) <= 1, "core cuts off where Send Image rounds"


@pytest.mark.soak
def test_a_picture_inside_a_subgraph_stays_there(page):
    browser.load_workflow(page, SAVED["vega_live_drawing"])
    nodes = ", ".join(map(node_js, ("VegaTinyVAEDecode", "VegaSendImage")))
    page.evaluate(f"window.app.graph.convertToSubgraph(new Set([{nodes}]))")
    nested = page.evaluate("window.app.graph.serialize()")
    browser.load_workflow(page, nested)
    browser.load_workflow(page, nested)
    set_slow(page, seed=5)
    ended = queue(page)
    open_tab(page, -2)
    before = state(page)
    wait_for_the_end(page, ended)
    assert state(page) == before
    assert page.evaluate("Object.keys(window.app.nodeOutputs)") == []
    open_tab(page, -1)
    page.evaluate("window.app.canvas.setGraph([...window.app.graph.subgraphs.values()][0])")
    page.evaluate("window.app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    inside = node_js("VegaSendImage").replace("app.graph", "app.canvas.graph")
    page.wait_for_function(f"{inside}.imgs?.[0]?.naturalWidth === 128")
    page.evaluate("window.app.canvas.setGraph(window.app.graph)")


def test_a_picture_does_not_come_to_an_opening_workflow(page, server):
    """A picture that comes while a workflow opens does not come to that one.

    The graph is there before its workflow counts as the open one: the result comes at each moment of that.
    """
    browser.load_workflow(page, SAVED["vega_live_drawing"])
    set_slow(page, seed=6)
    ended = queue(page)
    ((_, prompt_id, *_),) = server.get("/queue").json()["queue_running"]
    page.evaluate(
        """async ([workflow, promptId]) => {
            const images = [{ filename: 'early.png', subfolder: '', type: 'temp' }]
            let opened = false
            window.app.loadGraphData(workflow).then(() => (opened = true))
            while (!opened) {
                const detail = { node: '7', display_node: '7', prompt_id: promptId, output: { sent: [], images } }
                window.app.api.dispatchCustomEvent('executed', detail)
                await new Promise(resolve => setTimeout(resolve))
            }
        }""",
        [SAVED["vega_live_drawing"], prompt_id],
    )
    assert page.evaluate("'7' in window.app.nodeOutputs") is False
    wait_for_the_end(page, ended)
    assert page.evaluate("'7' in window.app.nodeOutputs") is False


def test_a_file_brings_no_received_picture_back(page, server):
    """A file brings back the graph without the picture that Receive Image had."""
    browser.load_workflow(page, SAVED["vega_img2img"])
    page.evaluate(
        f"""() => {{
            const send = window.LiteGraph.createNode('VegaSendImage')
            window.app.graph.add(send)
            {node_js("VegaTinyVAEDecode")}.connect(0, send, 0)
        }}"""
    )
    page.evaluate(f"{widget_js('VegaSendImage', 'format')}.value = 'png'")
    received = page.evaluate(f"{widget_js('VegaReceiveImage', 'image')}.value")
    assert browser.run_workflow(page) == "execution_success"
    image = named(server)
    file = server.get("/view", **image).content
    assert received.encode() not in file
    count = page.evaluate("window.app.graph.nodes.length")
    drop(page, f"/view?filename={image['filename']}&type=temp", "sent.png")
    page.wait_for_function(f"window.app.graph.nodes.length === {count}")
    assert "left out" in page.evaluate(f"{widget_js('VegaReceiveImage', 'image')}.value")
    assert browser.outlined_nodes(page) == []


def test_jobs_and_assets_show_a_sent_picture(page, server):
    """The queue and the assets show a sent picture as they show Preview Image's."""
    workflow = SAVED["vega_live_drawing"]
    seen = {}
    for kind in ("VegaSendImage", "PreviewImage"):
        browser.load_workflow(page, workflow)
        page.evaluate(f"{widget_js('VegaLCMSampler', 'seed')}.value = 4711")
        if kind == "PreviewImage":
            add_oracle(page)
            page.evaluate(f"window.app.graph.remove({node_js('VegaSendImage')})")
        else:
            page.evaluate(f"{widget_js(kind, 'format')}.value = 'png'")
        browser.run_workflow(page)
        (prompt_id,) = server.get("/history", max_items=1).json()
        page.evaluate("window.app.extensionManager.command.execute('Comfy.Queue.ToggleOverlay')")
        queue = picture_in(page, page.locator(f"[data-job-id='{prompt_id}'] img"))
        page.evaluate("window.app.extensionManager.command.execute('Comfy.Queue.ToggleOverlay')")
        page.evaluate("window.app.extensionManager.command.execute('Workspace.ToggleSidebarTab.assets')")
        (image,) = [image for output in page.evaluate("Object.values(window.app.nodeOutputs)") for image in output["images"]]
        asset = picture_in(page, page.locator(f"img[src*='{image['filename']}']"))
        count = server.get(f"/api/jobs/{prompt_id}").json()["outputs_count"]  # more than one makes a pile of the picture
        page.evaluate("window.app.extensionManager.command.execute('Workspace.ToggleSidebarTab.assets')")
        seen[kind] = (queue, asset, fetched(server, image))
        assert count == 1
    for mine, its in zip(*seen.values(), strict=True):
        assert mine.size == its.size == (128, 128)
        assert max(most for _, most in ImageChops.difference(mine, its).getextrema()) <= 1


def test_a_saved_picture_dropped_again_is_the_graph(page):
    browser.load_workflow(page, SAVED["vega_txt2img"])
    page.evaluate(f"{widget_js('VegaLCMSampler', 'seed')}.value = 31")
    browser.run_workflow(page)
    browser.shown_image(page, "SaveImage")
    drop(page, page.evaluate(f"{node_js('SaveImage')}.imgs[0].src"), "saved.png")
    page.wait_for_function(f"{widget_js('VegaLCMSampler', 'seed')}?.value === 31")
    assert browser.outlined_nodes(page) == []
