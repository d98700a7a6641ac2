"""Live Image in ComfyUI's page for minutes: its pace, its memory, and what breaks on the way."""

import statistics
import time
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
import relay
from live_page import CANVAS, IMAGE, LIVE, STATUS, box_middle, frame, load, picture, wait_for_frame
from live_sockets import LiveSocket, in_base64, opened, plain_graph
from live_sockets import frame as grey
from workflow_files import for_programs

from dev import browser, comfyui, templates

pytestmark = [pytest.mark.soak, pytest.mark.usefixtures("nothing_live")]
ROOT = Path(__file__).resolve().parents[1]
ON_THE_WAY_MS = 50  # at most, a frame to the server
POLL_MS = 20  # by default a page is asked sixty times a second, beside the model on the same cores


# When each stroke began, each frame went (by its number less 1) and each picture came, and of which frame: ms.
RECORD = """() => {
    const isRecording = !!window.strokes
    Object.assign(window, { strokes: [], sent: [], got: [] })
    if (isRecording) return
    document.addEventListener('pointerdown', () => window.strokes.push(performance.now()), true)
    window.WebSocket = class extends WebSocket {
        constructor(address, ...rest) {
            super(address, ...rest)
            if (address.includes('/vega/live')) this.addEventListener('message', ({ data }) => {
                if (typeof data !== 'string') return window.got.push([performance.now(), window.about.frame])
                if (JSON.parse(data).type === 'picture') window.about = JSON.parse(data)
            })
        }
        send(data) {
            if (typeof data !== 'string') window.sent.push(performance.now())
            super.send(data)
        }
    }
}"""


def test_a_duplicated_tab_has_another_name(page, server):
    """It begins with the first one's storage; and when another of its name has gone, the page sends its graph again."""
    load(page, "vega_live_paint")
    link = page.locator(".vega-live a").evaluate("link => link.href")
    name = link.partition("#")[2]
    assert page.evaluate("sessionStorage['Vega.LiveName']") in name
    with page.expect_popup() as popup:
        page.evaluate("link => void window.open(link)", link)
    twin = popup.value
    assert twin.evaluate("sessionStorage['Vega.LiveName']") in name
    twins = twin.evaluate("import(new URL('js/live_name.js', location.href)).then(({ tabName }) => tabName)")
    assert twins not in name
    twin.locator("p", has_text="Waiting for a prompt").wait_for()
    page.locator(LIVE).click()
    wait_for_frame(page, 1)
    twin.wait_for_function("document.querySelector('p').textContent === ''")
    twin.close()
    drawn = picture(page)
    with LiveSocket(server, name) as other:
        other.prompt(plain_graph())
        other.next("picture")
    while picture(page) != drawn:  # through the page's graph, and not through the other one's
        page.wait_for_timeout(100)


def test_the_page_and_a_program_and_a_run_get_their_own(page, server):
    """Two live pictures and what Run draws meanwhile."""
    load(page, "vega_live_paint")
    page.locator(LIVE).click()
    wait_for_frame(page, 1)
    with LiveSocket(server) as program:
        program.prompt(plain_graph())
        for shade in (50, 150):
            number = frame(page)
            page.locator(CANVAS).click(position={"x": shade, "y": 100})
            program.frame(grey(shade))
            assert opened(program.next("picture")[1]).getpixel((60, 60))[0] == shade
            wait_for_frame(page, number + 1)
        drawn = picture(page)
        assert browser.run_workflow(page) == "execution_success"
        program.frame(grey(200))
        assert opened(program.next("picture")[1]).getpixel((60, 60))[0] == 200
    assert picture(page) == drawn
    assert browser.shown_image(page, "VegaSendImage").size == (192, 192)


def test_live_goes_on_or_says_so(page, server, tmp_path):
    """A connection that drops, a tab that sleeps, a page that is loaded anew, a server that starts again."""
    with relay.to(server.port) as way, comfyui.serve(tmp_path / "again") as again:
        try:
            page.goto(f"http://127.0.0.1:{way.port}")
            browser.wait_until_ready(page)
            load(page, "vega_live_webcam")
            page.locator(LIVE).click()
            wait_for_frame(page, 3)
            assert way.disconnect_all() > 0
            page.locator(STATUS, has_text="connection is lost").wait_for()
            browser.poll_page(page, f"() => !document.querySelector('{STATUS}').textContent")  # a picture has come
            name = page.locator(".vega-live a").get_attribute("href")

            session = page.context.new_cdp_session(page)
            session.send("Page.setWebLifecycleState", {"state": "frozen"})
            time.sleep(45)  # longer than the server waits for a pong
            session.send("Page.setWebLifecycleState", {"state": "active"})
            goes_on(page)

            page.reload()
            browser.wait_until_ready(page)
            page.locator(LIVE).wait_for()
            assert page.locator(".vega-live a").get_attribute("href") == name
            page.locator(LIVE).click()
            wait_for_frame(page, 3)

            way.target = again.port
            assert way.disconnect_all() > 0
            page.locator(STATUS, has_text="connection is lost").wait_for()
            goes_on(page)
            assert again.get("/queue").json()["queue_pending"] == []
        finally:
            page.goto(server.url)
            browser.wait_until_ready(page)


def goes_on(page) -> None:
    """Waits for another picture than the one that is there."""
    shown = page.locator(IMAGE).get_attribute("src")
    browser.poll_page(page, f"src => document.querySelector('{IMAGE}').src !== src", shown)
    browser.poll_page(
        page, f"src => document.querySelector('{IMAGE}').src !== src", page.locator(IMAGE).get_attribute("src")
    )


def waits_to_be_drawn(sent: list[float], got: list[list]) -> list[float]:
    """ms from each drawn frame to the start of its drawing: it starts when the picture before has come, and not earlier."""
    return [max(0.0, began - sent[number - 1]) for (began, _), (_, number) in pairwise(got)]


def test_ten_minutes_of_webcam(page, server, record_property):
    """Memory of the server and of the page stays, and no frame older than two pictures' time is ever drawn."""
    load(page, "vega_live_webcam")
    page.evaluate(RECORD)
    page.locator(LIVE).click()
    wait_for_frame(page, 20)
    process = psutil.Process(server.process.pid)

    def memory() -> tuple[int, int]:
        heap = page.evaluate("(globalThis.gc?.(), performance.memory.usedJSHeapSize)")
        return process.memory_info().rss // 2**20, heap // 2**20

    page.wait_for_timeout(60_000)
    before = memory()
    page.wait_for_timeout(540_000)
    after = memory()
    sent, got = page.evaluate("[window.sent, window.got.slice(20)]")
    ages = sorted(came - sent[number - 1] for came, number in got)
    period = statistics.median(later - came for (came, _), (later, _) in pairwise(got))
    waits = waits_to_be_drawn(sent, got)
    record_property("pictures", len(got))
    record_property("ms between pictures p50", round(period))
    record_property("age at the picture ms p50, max", f"{ages[len(ages) // 2]:.0f} {ages[-1]:.0f}")
    record_property("age at its start in pictures' times max", round(max(waits) / period, 2))
    record_property("server and page MiB before", str(before))
    record_property("server and page MiB after", str(after))
    assert after[0] - before[0] < 100
    assert after[1] - before[1] < 50
    assert max(waits) <= 2 * period


def model_ms(client) -> float:
    """From the first node that runs to Send Image, of the graph of the template, with another picture each time."""
    prompt = for_programs(ROOT / "workflows" / f"{templates.TEMPLATES['vega_live_paint'].title}.json")
    taken = []
    for shade in range(20):
        prompt["1"]["inputs"]["picture"] = in_base64(grey(shade, side=192))
        began = None
        for kind, data in client.events(client.queue(prompt)):
            if kind == "executing" and data["node"]:
                began = began or time.perf_counter()
                ended = time.perf_counter()
        taken.append(1000 * (ended - began))
    return statistics.median(taken[5:])


def test_fifty_strokes_in_a_row(page, client, record_property):
    """A picture of each comes within twice the model's own time, and each is of the newest frame at its start."""
    load(page, "vega_live_paint")
    own = model_ms(client)
    page.evaluate(RECORD)
    page.locator(LIVE).click()
    wait_for_frame(page, 1)
    x, y = box_middle(page.locator(CANVAS))
    answered = "window.got.length && window.got.at(-1)[1] === window.sent.length"
    for k in range(50):
        page.wait_for_function(answered, polling=POLL_MS)
        before = page.evaluate("window.sent.length")
        page.mouse.click(x + 2 * k - 50, y)
        page.wait_for_function(f"window.sent.length > {before} && {answered}", polling=POLL_MS)
    strokes, sent, got = page.evaluate("[window.strokes.slice(1), window.sent, window.got]")
    assert len(strokes) == 50
    waits = []
    for began in strokes:
        number = next(k for k, at in enumerate(sent, start=1) if at >= began)
        waits.append(next(came for came, drawn in got if drawn >= number) - began)
    record_property("model ms", round(own))
    record_property("wait ms p50, p95, max", " ".join(f"{sorted(waits)[k]:.0f}" for k in (25, 47, 49)))
    for (began, _), (_, number) in pairwise(got):
        assert number >= sum(at < began - ON_THE_WAY_MS for at in sent), "an older frame than the newest was drawn"
    assert max(waits) <= 2 * own
