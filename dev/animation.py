"""Films the pack at work in ComfyUI's page: templates are opened, prompts typed, pictures drawn. For the README.

How long a frame is shown is chosen for the eye; it says nothing of the time that a picture takes.
"""

import io

from PIL import Image, ImageDraw
from playwright.sync_api import Locator, Page

from . import browser
from .browser import node_js
from .host import ROOT
from .templates import TEMPLATES

OUTPUT_FILE = ROOT / "docs" / "pictures" / "first-picture.webp"
WINDOW_SIZE, FILM_SIZE = {"width": 1180, "height": 664}, (960, 540)
PROMPT, LIVE_PROMPT = "night, the sea with a boat, stars", "a red sunset over the sea with a boat"
KEYSTROKE_MS, PAUSE_MS, LAST_FRAME_MS = 90, 1200, 3000
POINTER_POLYGON = ((0, 0), (0, 17), (4, 13), (7, 20), (10, 19), (7, 12), (12, 12))  # in the page's points, from its tip
PROMPT_BOX = "[data-testid=dom-widget-textarea]:visible"
SETTLE_MS = 1500  # the view's own animations have ended
# The green node and the result as large as they fit beside the menus; the note is out of sight.
CLOSE_UP_VIEW_JS = """() => {
    const { ds, graph } = window.app.canvas, [x, y] = graph.nodes.find(n => n.subgraph).pos
    return { scale: 1.1, offset: [180 / 1.1 - x, 145 / 1.1 - y] }
}"""


class Film:
    """Screenshots of the page and how long each is shown, in ms."""

    def __init__(self, page: Page):
        self.page, self.frames, self.shown_ms = page, [], []
        self.at = (WINDOW_SIZE["width"] * 0.6, WINDOW_SIZE["height"] * 0.7)

    def shoot(self, ms: int) -> None:
        picture = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        scale, (x, y) = picture.width / WINDOW_SIZE["width"], self.at
        tip = [((x + dx) * scale, (y + dy) * scale) for dx, dy in POINTER_POLYGON]
        ImageDraw.Draw(picture).polygon(tip, "white", "black", width=2)
        self.frames.append(picture.resize(FILM_SIZE, Image.Resampling.LANCZOS))
        self.shown_ms.append(ms)

    def click(self, target: Locator, look_ms: int = PAUSE_MS) -> None:
        """Points at it, and clicks."""
        box = target.bounding_box()
        self.at = (box["x"] + box["width"] / 2, box["y"] + min(box["height"] / 2, 100))
        self.page.mouse.move(*self.at)
        self.shoot(look_ms)
        target.click()

    def save(self) -> None:
        first, *others = self.frames
        first.save(OUTPUT_FILE, save_all=True, append_images=others, duration=self.shown_ms, loop=0, quality=60, method=6)
        print(OUTPUT_FILE, FILM_SIZE, len(self.frames), OUTPUT_FILE.stat().st_size)


def write(page: Page) -> None:
    page.set_viewport_size(WINDOW_SIZE)
    page.reload()
    browser.wait_until_ready(page)
    page.evaluate("window.app.graph.clear()")  # it is seen behind the templates
    film = Film(page)
    open_template(film, "vega_txt2img", is_shown=True)
    type_prompt(film, PROMPT)
    record_run(film)
    film.shoot(PAUSE_MS)
    open_template(film, "vega_live_drawing")
    film.click(page.get_by_test_id("queue-mode-menu-trigger"), PAUSE_MS // 2)
    film.click(page.get_by_role("menuitem", name="Run (On Change)"))
    record_run(film)
    type_prompt(film, LIVE_PROMPT, is_drawn=True)
    film.shown_ms[-1] = LAST_FRAME_MS
    page.evaluate("window.app.extensionManager.queueSettings.mode = 'disabled'")
    film.save()


def open_template(film: Film, name: str, is_shown: bool = False) -> None:
    page = film.page
    page.evaluate("window.app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.get_by_text("vega-rt", exact=True).first.click()
    card = page.get_by_test_id(f"template-workflow-{TEMPLATES[name].title}")
    card.wait_for()
    page.wait_for_timeout(SETTLE_MS)
    if is_shown:
        film.shoot(PAUSE_MS)
        box = card.bounding_box()
        film.at = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        film.shoot(PAUSE_MS // 2)
    card.dispatch_event("click")
    card.wait_for(state="detached")
    page.wait_for_timeout(SETTLE_MS)
    film.shoot(PAUSE_MS)
    page.wait_for_function(browser.SET_VIEW_JS, arg=page.evaluate(CLOSE_UP_VIEW_JS))
    film.shoot(PAUSE_MS // 2)


def type_prompt(film: Film, text: str, is_drawn: bool = False) -> None:
    """One frame for each letter; is_drawn: with its picture."""
    box = film.page.locator(PROMPT_BOX).first
    film.click(box, PAUSE_MS // 2)
    film.page.keyboard.press("ControlOrMeta+a")
    film.shoot(PAUSE_MS // 2)
    for letter in text:
        before = image_url(film.page, "VegaSendImage") if is_drawn else None
        film.page.keyboard.type(letter)
        if is_drawn:
            wait_for_picture(film.page, "VegaSendImage", before)
        film.shoot(KEYSTROKE_MS)


def record_run(film: Film) -> None:
    kind = film.page.evaluate("window.app.graph.nodes.find(n => /SaveImage|VegaSendImage/.test(n.type)).type")
    before = image_url(film.page, kind)
    film.click(film.page.get_by_test_id("queue-button"), PAUSE_MS // 2)
    film.shoot(KEYSTROKE_MS)
    wait_for_picture(film.page, kind, before)
    film.shoot(PAUSE_MS)


def image_url(page: Page, kind: str) -> str | None:
    """The address of the picture that a node shows."""
    return page.evaluate(f"{node_js(kind)}.imgs?.[0]?.src ?? null")


def wait_for_picture(page: Page, kind: str, before: str | None) -> None:
    page.wait_for_function(
        f"before => {{ const image = {node_js(kind)}.imgs?.[0]; return image?.naturalWidth && image.src !== before }}",
        arg=before,
    )
    page.wait_for_timeout(100)  # it is drawn with the page's next frame
