"""What people do in ComfyUI's page, in JavaScript: refresh, queue, change tabs, drop a picture."""

import base64
import functools
import io
import json
from pathlib import Path

from PIL import Image

from dev.browser import node_js, widget_js
from train.images import to_tensor
from train.nano import classifier
from train.nano.scenes import VALUES

ROOT = Path(__file__).resolve().parents[1]
NANO_DIR = ROOT / "vega" / "nano"
# Graphs that earlier versions of this pack came with, and that people have saved: they must go on as they were.
SAVED = {
    path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (ROOT / "tests" / "saved_graphs").glob("*.json")
}


@functools.cache
def attribute_classifier():
    return classifier.load(NANO_DIR)


def read(picture) -> dict:
    """The attributes that vega-nano's classifier finds in a picture."""
    (seen,) = classifier.classify(attribute_classifier(), to_tensor([picture.convert("RGB")]))[0].tolist()
    return {name: values[k] for (name, values), k in zip(VALUES._asdict().items(), seen, strict=True)}


def refresh(page) -> None:
    """What the R key does."""
    page.evaluate("window.app.extensionManager.command.execute('Comfy.RefreshNodeDefinitions')")


def open_help(page, kind: str) -> None:
    """Selects the node and presses its i."""
    x, y = page.evaluate(f"window.app.canvas.ds.convertOffsetToCanvas({node_js(kind)}.pos)")
    page.mouse.click(x + 60, y - 8)
    page.get_by_test_id("info-button").click()


# Whose node 7, as Send Image's, is one of another kind, or another Send Image.
OTHERS = {"another workflow": "vega_img2img", "the same workflow twice": "vega_live_drawing"}
SLOW = 30  # steps, so that there is time to do something else


def add_oracle(page) -> None:
    """Core's own Preview Image beside Send Image, with an id that no other graph has: its picture does go astray."""
    page.evaluate(
        f"""() => {{
            const preview = window.LiteGraph.createNode('PreviewImage')
            preview.id = 99
            window.app.graph.add(preview)
            preview.pos = [0, 900]
            {node_js("VegaTinyVAEDecode")}.connect(0, preview, 0)
        }}"""
    )


def set_slow(page, seed: int) -> None:
    """The steps that the sampler has done by then are in window.steps."""
    page.evaluate(f"{widget_js('VegaLCMSampler', 'steps')}.value = {SLOW}")
    page.evaluate(f"{widget_js('VegaLCMSampler', 'seed')}.value = {seed}")
    page.evaluate(
        f"""() => {{
            window.steps = []
            window.app.api.addEventListener('progress', ({{ detail }}) => {{
                if (detail.max === {SLOW}) window.steps.push(detail.value)
            }})
        }}"""
    )


def queue(page) -> int:
    """Presses Run and comes back while the sampler is at work: how many prompts had ended before."""
    ended = page.evaluate("window.ended.length")
    page.get_by_test_id("queue-button").click()
    page.wait_for_function("window.steps.length >= 2")
    return ended


def open_tab(page, k: int) -> None:
    """Clicks the tab of a workflow; the mouse goes away from it, or the tab's preview would lie on the Run button."""
    page.locator(".workflow-tab").nth(k).click()
    page.mouse.move(800, 700)


def wait_for_the_end(page, ended: int) -> None:
    page.wait_for_function(f"window.ended.length > {ended} && window.app.ui.lastQueueSize === 0")
    assert page.evaluate("window.ended.at(-1)") == "execution_success"


def state(page) -> dict:
    """Each node's size and how many pictures it shows, once all that came has been drawn."""
    page.evaluate("window.app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    page.wait_for_timeout(500)
    return page.evaluate(
        "Object.fromEntries(window.app.graph.nodes.map(n => [n.id, [...n.size.map(Math.round), n.imgs?.length ?? 0]]))"
    )


def named(server) -> dict:
    """What the last prompt's /history says that Send Image made, a picture of Preview Image's kind."""
    history = server.get("/history", max_items=1).json()
    (outputs,) = [one["outputs"] for one in history.values()]
    (output,) = [output for output in outputs.values() if "sent" in output]
    assert output["sent"] == []
    (image,) = output["images"]
    return image


def fetched(server, image: dict):
    return Image.open(io.BytesIO(server.get("/view", **image).content)).convert("RGB")


def picture_in(page, image):
    """The pixels of an <img>."""
    data = image.first.evaluate(
        """async image => {
            await image.decode()
            const canvas = document.createElement('canvas')
            Object.assign(canvas, { width: image.naturalWidth, height: image.naturalHeight })
            canvas.getContext('2d').drawImage(image, 0, 0)
            return canvas.toDataURL('image/png').split(',')[1]
        }"""
    )
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


def drop(page, url: str, name: str) -> None:
    """The picture at the URL, dragged from a folder onto an empty canvas."""
    page.evaluate("window.app.graph.clear()")
    page.evaluate(
        """async ([url, name]) => {
            const blob = await (await fetch(url)).blob()
            const dataTransfer = new DataTransfer()
            dataTransfer.items.add(new File([blob], name, { type: blob.type }))
            const canvas = document.getElementById('graph-canvas')
            canvas.dispatchEvent(new DragEvent('drop', { dataTransfer, bubbles: true, cancelable: true }))
        }""",
        [url, name],
    )
    page.wait_for_function("window.app.graph.nodes.length > 0")
