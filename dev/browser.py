"""ComfyUI's page in a real Chromium: opened, loaded, run, looked at."""

import base64
import io
import json
import time
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

CHROMIUM_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
CHROMIUM_FLAGS += ["--disable-component-update", "--disable-sync"]
# A webcam, and nobody to be asked.
CHROMIUM_FLAGS += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
TIMEOUT_SECONDS = 180
# While the page starts, a mask lies over it and takes the clicks.
PAGE_READY_JS = """!!(window.app?.graph && window.LiteGraph?.registered_node_types?.VegaLoader
    && !document.querySelector('.p-blockui-mask'))"""
END_EVENTS = ["execution_success", "execution_error", "execution_interrupted"]


@contextmanager
def open_page(server, profile: Path, chromium: str, scale: int = 1):
    """A visitor's page; page.console_errors has none about the internet, which is not there.

    scale: pixels of a screenshot for each of the page.
    """
    server.post("/settings", {"Comfy.TutorialCompleted": True})  # or the template browser opens on top of everything
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=chromium,
            args=CHROMIUM_FLAGS,
            viewport={"width": 1600, "height": 900},
            device_scale_factor=scale,
        )
        page = context.new_page()
        page.console_errors = []
        page.on("console", lambda message: record_console_error(page, server.url, message))
        page.on("pageerror", lambda error: page.console_errors.append(str(error)))
        page.set_default_timeout(1000 * TIMEOUT_SECONDS)
        page.goto(server.url)
        wait_until_ready(page)
        yield page
        context.close()


def wait_until_ready(page: Page) -> None:
    """After the page was loaded, or loaded anew; window.ended is then how each prompt ended."""
    page.wait_for_function(PAGE_READY_JS)
    page.evaluate(
        """ends => {
            window.ended = []
            for (const end of ends) window.app.api.addEventListener(end, () => window.ended.push(end))
        }""",
        END_EVENTS,
    )


def record_console_error(page: Page, url: str, message) -> None:
    if message.type == "error" and message.location["url"].startswith(url) and "https://" not in message.text:
        page.console_errors.append(message.text)


VIEW_STILL_JS = """() => new Promise(answer => {
    const view = () => String([...window.app.canvas.ds.offset, window.app.canvas.ds.scale])
    const before = view()
    requestAnimationFrame(() => requestAnimationFrame(() => answer(view() === before)))
})"""


# Sets a view, and tells whether it is still there after a moment.
SET_VIEW_JS = """view => new Promise(answer => {
    const canvas = window.app.canvas
    Object.assign(canvas.ds, { scale: view.scale, offset: [...view.offset] })
    canvas.setDirty(true, true)
    setTimeout(() => answer(canvas.ds.scale === view.scale), 150)
})"""


def poll_page(page: Page, question: str, arg=None):
    """Asks the page until a promise of it answers with something true, and gives that.

    Playwright's wait_for_function takes the promise itself for true. A question lasts a frame at least.
    """
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not (answer := page.evaluate(question, arg)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"The page never answered {question} with something true.")
    return answer


def load_workflow(page: Page, workflow: dict) -> None:
    """What a click on a template does, in the place of the graph before it; a view that still moves would go on moving."""
    poll_page(page, VIEW_STILL_JS)
    page.evaluate("workflow => window.app.loadGraphData(workflow)", workflow)
    page.wait_for_function(f"window.app.graph.nodes.length === {len(workflow['nodes'])}")
    if view := workflow.get("extra", {}).get("ds"):  # another graph's view may have gone on moving over this one's
        poll_page(page, SET_VIEW_JS, view)


def center_node(page: Page, kind: str) -> None:
    """Puts a node in the middle at 100 %: the frontend hides boxes of text below about half, and loads what is in sight."""
    view = page.evaluate(
        f"""() => {{
            const {{ pos, size }} = {node_js(kind)}
            const {{ width, height }} = window.app.canvas.canvas.getBoundingClientRect()
            return {{ scale: 1, offset: [width / 2 - pos[0] - size[0] / 2, height / 2 - pos[1] - size[1] / 2] }}
        }}"""
    )
    poll_page(page, SET_VIEW_JS, view)


def node_js(kind: str) -> str:
    return f"window.app.graph.nodes.find(n => n.type === {json.dumps(kind)})"


def widget_js(kind: str, name: str) -> str:
    return f"{node_js(kind)}.widgets.find(w => w.name === {json.dumps(name)})"


def outlined_nodes(page: Page) -> list[str]:
    """The nodes that are drawn as wrong: unknown ones, those with wrong values or missing models, and one that failed."""
    return page.evaluate(
        """() => window.app.graph.nodes
            .filter(n => n.has_errors || !n.constructor.type || n.strokeStyles.executionError?.call(n))
            .map(n => n.type)"""
    )


def run_workflow(page: Page) -> str:
    """Presses Run, waits for the end and says which of END_EVENTS it was."""
    count = page.evaluate("window.ended.length")
    page.get_by_test_id("queue-button").click()
    page.wait_for_function(f"window.ended.length > {count} && window.app.ui.lastQueueSize === 0")
    return page.evaluate(f"window.ended[{count}]")


def shown_image(page: Page, kind: str) -> Image.Image:
    """The first picture that a node shows."""
    center_node(page, kind)  # what is out of sight has none
    page.wait_for_function(f"{node_js(kind)}.imgs?.[0]?.naturalWidth > 0")
    data = page.evaluate(
        f"""() => {{
            const image = {node_js(kind)}.imgs[0]
            const canvas = document.createElement('canvas')
            Object.assign(canvas, {{ width: image.naturalWidth, height: image.naturalHeight }})
            canvas.getContext('2d').drawImage(image, 0, 0)
            return canvas.toDataURL('image/png').split(',')[1]
        }}"""
    )
    return Image.open(io.BytesIO(base64.b64decode(data)))
