"""Requests of every kind while a stranger interrupts, clears, frees and deletes: the client loses none, none is wrong."""

import asyncio
import collections
import contextlib
import json
import queue
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from dev import comfyui
from dev.templates import TEMPLATES
from vega_client import AsyncClient, Client

ROOT = Path(__file__).resolve().parents[1]

SHIPPED = ("txt2img", "img2img", "inpaint", "live_drawing", "plain_beside_rt", "send_image_api", "steps_compared")
SIZES = ((64, 64), (128, 128), (96, 160), (192, 128))
THREADS, TASKS = 6, 10  # with a client each, and of one client
PAUSES, RARE = (0.1, 0.6), (0.3, 1.0)  # seconds between two things that the stranger does


@dataclass(frozen=True)
class Request:
    """A call of the client, by its arguments; leaves: the seconds after which whoever asked has gone."""

    method: str
    arguments: tuple
    options: dict
    leaves: float | None = None


def picture() -> Image.Image:
    """To start from."""
    image = Image.new("RGB", (128, 128), "navy")
    ImageDraw.Draw(image).ellipse((40, 20, 90, 70), fill="orange")
    return image


def made(seed: int, source=random.Random) -> Request:
    """One of every kind in turn, with a seed of its own."""
    chance = source(seed)
    prompt, (width, height) = f"night, desert, {seed} stars", chance.choice(SIZES)
    options = {"seed": seed, "format": chance.choice(("png", "jpeg", "webp")), "steps": chance.randint(1, 6)}
    leaves = chance.uniform(0, 1) if seed % 10 == 9 else None
    kind = seed % 6
    if kind < 3:
        options |= {"width": width, "height": height}
        options |= [{}, {"image": picture(), "denoise": 0.6}, {"model": "segmind-vega", "guidance_scale": 3}][kind]
        return Request("generate", (prompt,), options, leaves)
    if kind == 3:
        told = {"on_progress": lambda *_: None, "on_preview": chance.choice((None, lambda _: None))}
        return Request("generate", (prompt,), options | told, leaves)
    name = chance.choice(SHIPPED)
    twin = json.loads((ROOT / "workflows" / "api" / f"vega_{name}.json").read_text(encoding="utf-8"))
    samplers = {node["class_type"] for node in twin.values()} & {"VegaLCMSampler", "KSampler"}
    workflow = twin if kind == 4 else ROOT / "workflows" / f"{TEMPLATES[f'vega_{name}'].title}.json"
    return Request("queue", (workflow, {f"{kind}.seed": seed for kind in sorted(samplers)}), {}, leaves)


def pixels(drawn: Image.Image | list[Image.Image]) -> list[tuple]:
    return [(image.size, image.mode, image.tobytes()) for image in (drawn if isinstance(drawn, list) else [drawn])]


@dataclass
class Crowd:
    """What came of each request, by its place among them."""

    requests: list[Request]
    drawn: dict[int, list[tuple]] = field(default_factory=dict)
    lost: dict[int, BaseException] = field(default_factory=dict)
    left: set[int] = field(default_factory=set)
    seconds: list[float] = field(default_factory=list)
    sent: int = 0  # requests to draw, repeated ones with them

    def ask_all(self, url: str) -> None:
        todo = queue.SimpleQueue()
        for place in range(len(self.requests)):
            todo.put(place)
        with ThreadPoolExecutor(THREADS + 1) as threads:
            ends = [threads.submit(self.one_after_another, url, todo) for _ in range(THREADS)]
            ends.append(threads.submit(asyncio.run, self.side_by_side(url, todo)))
        for end in ends:
            end.result()

    async def count(self, request) -> None:
        self.sent += request.method == "POST" and not request.url.path.endswith("/cancel")

    def one_after_another(self, url: str, todo: queue.SimpleQueue) -> None:
        client = Client(url)
        client.client.transport.http.event_hooks["request"].append(self.count)
        with contextlib.suppress(queue.Empty):
            while True:
                place = todo.get_nowait()
                request = self.requests[place]
                began = time.monotonic()
                leaving = threading.Timer(request.leaves or 0, client.close)
                if request.leaves is not None:
                    leaving.start()
                try:
                    drawn = getattr(client, request.method)(*request.arguments, **request.options)
                    self.drawn[place] = pixels(drawn)
                except BaseException as error:
                    self.lost[place] = error
                self.seconds.append(time.monotonic() - began)
                if request.leaves is not None:
                    leaving.join()
                    self.on_leave(place)
                    client = Client(url)
                    client.client.transport.http.event_hooks["request"].append(self.count)
        client.close()

    async def side_by_side(self, url: str, todo: queue.SimpleQueue) -> None:
        async with AsyncClient(url) as client:
            client.transport.http.event_hooks["request"].append(self.count)

            async def send_requests() -> None:
                with contextlib.suppress(queue.Empty):
                    while True:
                        place = todo.get_nowait()
                        request = self.requests[place]
                        began = time.monotonic()
                        call = getattr(client, request.method)(*request.arguments, **request.options)
                        try:
                            self.drawn[place] = pixels(await asyncio.wait_for(call, request.leaves))
                        except BaseException as error:
                            self.lost[place] = error
                        self.seconds.append(time.monotonic() - began)
                        if request.leaves is not None:
                            self.on_leave(place)

            await asyncio.gather(*(send_requests() for _ in range(TASKS)))

    def on_leave(self, place: int) -> None:
        """Whether they got it before they went is chance."""
        self.left.add(place)
        self.lost.pop(place, None)


class Stranger:
    """At another connection; `done` says what it did how often.

    It waits for an answer to somebody before it does the next thing: on a slow machine it would else clear the queue faster
    than anything can be drawn.
    """

    def __init__(self, server: comfyui.Server, crowd: Crowd, pauses: tuple[float, float]):
        self.server, self.crowd, self.pauses = server, crowd, pauses
        self.chance = random.Random(len(crowd.requests))
        self.done = collections.Counter()
        self.ended = threading.Event()

    @contextlib.contextmanager
    def at_work(self):
        thread = threading.Thread(target=self.work)
        thread.start()
        try:
            yield
        finally:
            self.ended.set()
            thread.join()

    def work(self) -> None:
        stranger = comfyui.Server(self.server.port, self.server.base, self.server.log, self.server.process)
        acts = (self.interrupt, self.clear, self.free, self.delete, self.forget)
        answers = 0
        while not self.ended.wait(self.chance.uniform(*self.pauses)):
            if self.done and len(self.crowd.seconds) == answers:
                continue
            answers = len(self.crowd.seconds)
            act = self.chance.choice(acts)
            act(stranger)
            self.done[act.__name__] += 1

    def interrupt(self, server) -> None:
        server.post("/interrupt", {})

    def clear(self, server) -> None:
        server.post("/queue", {"clear": True})

    def free(self, server) -> None:
        server.post("/free", {"unload_models": self.chance.random() < 0.5, "free_memory": True})

    def delete(self, server) -> None:
        if waiting := server.get("/queue").json()["queue_pending"]:
            server.post("/queue", {"delete": [self.chance.choice(waiting)[1]]})

    def forget(self, server) -> None:
        ids = list(server.get("/history").json())
        server.post("/history", {"delete": ids[-3:]} if ids and self.chance.random() < 0.7 else {"clear": True})


def check(server, count: int, pauses: tuple[float, float], record_property) -> None:
    crowd = Crowd([made(seed) for seed in range(count)])
    stranger = Stranger(server, crowd, pauses)
    began = time.monotonic()
    with stranger.at_work():
        crowd.ask_all(server.url)
    record_property("seconds of all", round(time.monotonic() - began))
    record_property("seconds of the slowest", round(max(crowd.seconds)))
    assert not crowd.lost
    assert len(crowd.drawn.keys() | crowd.left) == count
    server.free()  # what it has drawn, it has not kept
    with Client(server.url) as quiet:
        alone = {}
        for place in crowd.drawn:
            request = crowd.requests[place]
            alone[place] = pixels(getattr(quiet, request.method)(*request.arguments, **request.options))
    wrong = [crowd.requests[place] for place in crowd.drawn if crowd.drawn[place] != alone[place]]
    record_property("requests", count)
    record_property("left before their end", len(crowd.left))
    record_property("asked again", crowd.sent - count)
    for act, times in sorted(stranger.done.items()):
        record_property(act, times)
    record_property("lost", len(crowd.lost))
    record_property("wrong", len(wrong))
    assert not wrong
    assert stranger.done


def test_a_stranger_costs_nobody_a_picture(server, record_property):
    check(server, 10, RARE, record_property)  # of every kind, and one who leaves


@pytest.mark.server
@pytest.mark.soak
def test_500_requests_beside_a_stranger(tmp_path, record_property):
    with comfyui.serve(tmp_path) as server:
        check(server, 500, PAUSES, record_property)
