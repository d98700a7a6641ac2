"""Live Image in ComfyUI's page: what is painted or filmed, the picture beside it, and how it begins and ends."""

import re
from pathlib import Path

import pytest
from live_page import CANVAS, IMAGE, LIVE, NUMBERS, STATUS, colour, frame, load, picture, pixel, wait_for_frame
from live_sockets import LiveSocket
from live_sockets import frame as grey
from workflow_files import template

from dev import browser
from dev.browser import node_js, widget_js

pytestmark = pytest.mark.usefixtures("nothing_live")
ROOT = Path(__file__).resolve().parents[1]
RENDERERS = [pytest.param("classic", marks=pytest.mark.soak), "Nodes 2.0"]  # most tests of live painting are in classic
TEXTS = (ROOT / "web" / "js" / "live_texts.js").read_text(encoding="utf-8")
LANGUAGES = ("en", "es", "fr", "ja", "ko", "ru", "zh", "zh-TW")


@pytest.mark.parametrize("renderer", RENDERERS, indirect=True)
def test_the_picture_follows_the_brush_and_the_prompt(page, server, renderer):
    """Painting draws anew, so does another prompt without a stroke, and Stop ends it."""
    load(page, "vega_live_paint")
    page.locator(LIVE).click()
    wait_for_frame(page, 1)
    first, number = picture(page), frame(page)
    colour(page, "#ff0000")
    page.locator(".vega-live input[type=range]").fill("60")
    box = page.locator(CANVAS).bounding_box()
    side = box["width"]
    top = box["y"] + (box["height"] - side) / 2
    page.mouse.move(box["x"] + 0.1 * side, top + 0.1 * side)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.9 * side, top + 0.12 * side, steps=5)
    page.mouse.up()
    assert pixel(page, 0.1, 0.1) == pixel(page, 0.85, 0.12) == [255, 0, 0], "the brush is where the mouse is"
    wait_for_frame(page, number + 1)
    while picture(page) == first:  # of the whole stroke
        page.wait_for_timeout(100)
    text = "window.app.graph.nodes.find(n => n.isSubgraphNode?.()).widgets.find(w => w.name === 'prompt')"
    painted = page.locator(IMAGE).get_attribute("src")
    page.evaluate(f"{text}.value = 'a starry night over snowy mountains'")
    browser.poll_page(page, f"src => document.querySelector('{IMAGE}').src !== src", painted)
    page.locator(LIVE).click()
    assert page.locator(LIVE).inner_text() == "Live"
    assert re.search(r"\d pictures a second", page.locator(NUMBERS).inner_text())
    assert page.locator(STATUS).inner_text() == "", "what is read out is changes only"
    assert page.console_errors == []


def test_the_painting_is_saved_and_the_webcam_is_not(page):
    load(page, "vega_live_webcam")
    value = page.evaluate(f"{widget_js('VegaLiveImage', 'picture')}.value")
    page.locator(LIVE).click()
    wait_for_frame(page, 3)
    assert (
        len(
            set(
                page.evaluate(f"""() => {{
        const canvas = document.querySelector('{CANVAS}')
        return [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]
    }}""")
            )
        )
        > 20
    ), "the camera's picture"
    assert page.evaluate(f"{widget_js('VegaLiveImage', 'picture')}.value") == value
    load(page, "vega_live_paint")  # another workflow ends it
    assert page.locator(LIVE).inner_text() == "Live"
    colour(page, "#00ff00")
    page.locator(".vega-live button", has_text="Clear").click()
    saved = page.evaluate("window.app.graph.serialize()")
    browser.load_workflow(page, saved)
    browser.center_node(page, "VegaLiveImage")
    browser.poll_page(
        page, f"() => document.querySelector('{CANVAS}')?.getContext('2d').getImageData(9, 9, 1, 1).data[0] === 255"
    )
    assert pixel(page, 0.5, 0.5) == [255, 255, 255]


def test_the_camera_does_not_replace_the_painting(page):
    """A click or a key on what the webcam sees is no stroke; what Run sends of it says that it is a camera's."""
    load(page, "vega_live_webcam")
    value = f"{widget_js('VegaLiveImage', 'picture')}.value"
    painting = page.evaluate(value)
    page.locator(CANVAS).click()
    assert page.evaluate(value) == painting
    page.locator(LIVE).click()
    wait_for_frame(page, 1)
    page.locator(CANVAS).click()
    for key in ("Delete", " "):
        page.locator(CANVAS).dispatch_event("keydown", {"key": key, "bubbles": False})  # ComfyUI would delete the node
    assert page.locator(CANVAS).get_attribute("tabindex") is None
    assert page.evaluate(value) == painting
    sent = page.evaluate("window.app.graphToPrompt().then(({ output }) => Object.values(output))")
    (live,) = [node for node in sent if node["class_type"] == "VegaLiveImage"]
    assert live["inputs"]["picture"].startswith("data:image/jpeg;source=webcam;base64,/9j/")
    page.locator(".vega-live select").first.select_option("paint")
    browser.poll_page(page, f"() => document.querySelector('{CANVAS}').tabIndex === 0")
    assert page.evaluate(value) == painting


def test_the_screen_is_drawn_until_the_browser_ends_it(page):
    """Chromium's fake screen; and its own button that ends the sharing is a Stop."""
    load(page, "vega_live_paint")
    page.evaluate(
        """() => {
            const devices = navigator.mediaDevices, ask = devices.getDisplayMedia.bind(devices)
            devices.getDisplayMedia = async (wanted) => (window.shared = await ask(wanted))
        }"""
    )
    page.locator(".vega-live select").first.select_option("screen")
    page.locator(LIVE).click()
    wait_for_frame(page, 3)
    assert pixel(page, 0.5, 0.5) != [255, 255, 255]
    page.evaluate("window.shared.getTracks()[0].dispatchEvent(new Event('ended'))")
    assert page.locator(LIVE).inner_text() == "Live"
    assert page.evaluate("window.shared.getTracks().every(({ readyState }) => readyState === 'ended')")
    page.locator(".vega-live select").first.select_option("paint")
    assert page.console_errors == []


def test_an_impatient_hand_starts_one_webcam(page):
    """Live, Stop and Live again, before the browser has said whether the page may: one connection, one open camera."""
    load(page, "vega_live_webcam")
    page.evaluate(
        """() => {
            window.tracks = []
            window.opened = 0
            const devices = navigator.mediaDevices, ask = devices.getUserMedia.bind(devices)
            devices.getUserMedia = async (wanted) => {
                const stream = await ask(wanted)
                window.tracks.push(...stream.getTracks())
                return stream
            }
            window.plainSocket = WebSocket
            window.WebSocket = class extends WebSocket {
                constructor(address, ...rest) {
                    super(address, ...rest)
                    window.opened += address.includes('/vega/live')
                }
            }
        }"""
    )
    page.evaluate(f"() => {{ for (let k = 0; k < 3; k++) document.querySelector('{LIVE}').click() }}")
    wait_for_frame(page, 1)
    live = "window.tracks.map(track => track.readyState)"
    browser.poll_page(page, f"() => window.tracks.length === 2 && {live}.includes('ended')")
    assert page.evaluate(f"[window.opened, {live}.sort()]") == [1, ["ended", "live"]]
    page.locator(LIVE).click()
    assert page.evaluate(live) == ["ended", "ended"]
    page.evaluate("() => { delete navigator.mediaDevices.getUserMedia; window.WebSocket = window.plainSocket }")


def test_the_full_screen_page_shows_the_picture(page):
    load(page, "vega_live_paint")
    viewer = page.context.new_page()
    try:
        viewer.goto(page.locator(".vega-live a").evaluate("link => link.href"))
        page.locator(LIVE).click()
        wait_for_frame(page, 1)
        viewer.wait_for_function("document.querySelector('img').naturalWidth === 192")
    finally:
        viewer.close()


def test_a_node_added_by_hand_has_its_own_name(page):
    """Its id comes after its widget, when it is put into the graph."""
    browser.load_workflow(page, {**template("vega_live_paint"), "nodes": [], "links": []})
    id = page.evaluate(
        """() => {
            const node = window.LiteGraph.createNode('VegaLiveImage')
            window.app.graph.add(node)
            return node.id
        }"""
    )
    browser.center_node(page, "VegaLiveImage")
    assert page.locator(".vega-live a").get_attribute("href").endswith(f"-{id}")
    assert page.locator(".vega-live input[readonly]").input_value().endswith(f"-{id}")


def test_a_graph_that_cannot_be_read_is_said_once(page):
    """And neither a stroke nor anything else but a change has it read again."""
    load(page, "vega_live_paint")
    page.evaluate(
        """() => {
            window.reads = 0
            window.readGraph = window.app.graphToPrompt
            window.app.graphToPrompt = async (...options) => {
                window.reads += 1
                if (window.isBroken) throw new Error('a node is broken')
                return window.readGraph.apply(window.app, options)
            }
        }"""
    )
    page.locator(LIVE).click()
    wait_for_frame(page, 1)
    reads, number = page.evaluate("window.reads"), frame(page)
    page.locator(CANVAS).click()
    wait_for_frame(page, number + 1)
    page.wait_for_timeout(200)
    assert page.evaluate("window.reads") == reads, "a stroke changes no prompt"
    page.evaluate(f"() => {{ window.isBroken = true; {widget_js('VegaLiveImage', 'threshold')}.value = 0.1 }}")
    page.locator(STATUS, has_text="a node is broken").wait_for()
    page.wait_for_timeout(200)
    assert page.evaluate("window.reads") == reads + 1
    page.evaluate(f"() => {{ window.isBroken = false; {widget_js('VegaLiveImage', 'threshold')}.value = 0.0 }}")
    browser.poll_page(page, f"() => window.reads === {reads + 2}")
    page.evaluate("() => { window.app.graphToPrompt = window.readGraph }")


def test_a_program_sends_frames_into_the_pages_graph(page, server):
    """With the source Another program, who knows the node's address needs no graph."""
    load(page, "vega_live_paint")
    page.locator(".vega-live select").first.select_option("program")
    name = page.locator(".vega-live input[readonly]").input_value().partition("name=")[2]
    page.locator(LIVE).click()
    with LiveSocket(server, name) as program:
        number = program.frame(grey(120))
        message, file = program.next("picture")
        assert message["frame"] == number and file
        page.locator(NUMBERS, has_text=re.compile(r"frame [1-9]\d* ms old")).wait_for()
    browser.poll_page(page, f"() => document.querySelector('{IMAGE}').naturalWidth > 0")


def test_a_small_screen_has_every_control(page):
    """On a telephone's width nothing sticks out of the widget, and a finger meets each control."""
    load(page, "vega_live_paint")
    page.evaluate(f"{node_js('VegaLiveImage')}.setSize([340, 640])")
    page.set_viewport_size({"width": 390, "height": 844})
    try:
        browser.center_node(page, "VegaLiveImage")
        root = page.locator(".vega-live").bounding_box()
        assert root["width"] <= 390
        controls = page.locator(".vega-live").locator("button:visible, select:visible, input:visible, a:visible, canvas")
        for box in (control.bounding_box() for control in controls.all()):
            assert box["width"] >= 32 and box["height"] >= 32
            assert root["x"] <= box["x"] and box["x"] + box["width"] <= root["x"] + root["width"]
            assert root["y"] <= box["y"] and box["y"] + box["height"] <= root["y"] + root["height"]
    finally:
        page.set_viewport_size({"width": 1600, "height": 900})


def test_the_page_says_why_it_waits_for_a_connection(page, server):
    """With 32 of them there is no room for the page; then there is, and it draws."""
    sockets = [LiveSocket(server) for _ in range(32)]
    try:
        load(page, "vega_live_paint")
        page.locator(LIVE).click()
        page.locator(STATUS, has_text="32 live connections").wait_for()
    finally:
        for socket in sockets:
            socket.socket.close()
    wait_for_frame(page, 1)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_widget_speaks_each_language(language):
    """The same texts in each, with the same values filled in, and none left in English."""
    blocks = dict(re.findall(r'^  "?([\w-]+)"?: \{\n(.*?)^  \},', TEXTS, re.DOTALL | re.MULTILINE))
    assert tuple(blocks) == LANGUAGES
    texts = {code: dict(re.findall(r'^    (\w+): "(.*)",$', block, re.MULTILINE)) for code, block in blocks.items()}
    here, english = texts[language], texts["en"]
    assert here.keys() == english.keys()
    for key, text in here.items():
        assert sorted(re.findall(r"\{\w+\}", text)) == sorted(re.findall(r"\{\w+\}", english[key]))
        assert language == "en" or text != english[key] or (language, key) in {("fr", "source"), ("fr", "webcam")}
