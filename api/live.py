"""One live picture: the newest frame through the newest prompt, one at a time, to all who are connected to it."""

import asyncio
import contextlib
import copy
import itertools
import logging
import time

from server import PromptServer

from ..images.encode import EncodedImage
from ..images.live_frames import Frame
from .host_client import HostClient, Interrupted, PromptError

IMAGE, SENDER = "VegaLiveImage", "VegaSendImage"
WAITING_FOR_PROMPT = 'Waiting for a prompt: send {"type": "prompt", "prompt": a graph in API format}.'


class LiveClient(HostClient):
    """The host's client of one Live: it has the frames that its prompts draw, and gets their pictures."""

    def __init__(self, server: PromptServer):
        super().__init__(server)
        self.newest: Frame | None = None
        self.taken: Frame | None = None
        self.last_latents: dict = {}

    def take_frame(self) -> str:
        """As a FrameSource; also when other people's prompts came first, so that no old frame is drawn."""
        self.taken = self.newest
        return f"{self.id}:{self.taken.serial}"

    def taken_frame(self) -> Frame:
        return self.taken


class Member:
    """A socket of a Live. Sending waits for a slow reader: little is left unread, and pictures are left out meanwhile."""

    def __init__(self, socket):
        self.socket, self.count = socket, 0
        self.sending = asyncio.Lock()  # a picture's two messages stay together
        self.showing: asyncio.Task | None = None

    def is_behind(self) -> bool:
        """Whether the reader still has a picture to read."""
        return self.showing is not None and not self.showing.done()

    def number(self, frame: Frame) -> int | None:
        """The frame's number among those that this socket sent."""
        return frame.number if frame.sender is self else None

    async def tell(self, kind: str, **fields) -> None:
        """A text message; nothing where the connection has ended."""
        with contextlib.suppress(ConnectionError):
            async with self.sending:
                if not self.socket.closed:
                    await self.socket.send_json({"type": kind, **fields})

    def show(self, images: list[EncodedImage], frame: Frame, left_out: int) -> None:
        """Sends the pictures, unless the reader still has one to read."""
        if not self.is_behind():
            self.showing = asyncio.create_task(self.send_pictures(images, frame, left_out))

    async def send_pictures(self, images: list[EncodedImage], frame: Frame, left_out: int) -> None:
        """Each as a text message and a binary one."""
        with contextlib.suppress(ConnectionError):
            async with self.sending:
                for index, image in enumerate(images):
                    if self.socket.closed:
                        return
                    age_ms = round(1000 * (time.perf_counter() - frame.arrived_at), 1)
                    size = {"format": image.format, "width": image.width, "height": image.height}
                    picture = {"frame": self.number(frame), "index": index, "age_ms": age_ms, "left_out": left_out, **size}
                    await self.socket.send_json({"type": "picture", **picture})
                    await self.socket.send_bytes(image.data)


class Live:
    """For use on the server's event loop alone; run() ends by being cancelled."""

    def __init__(self, server: PromptServer):
        self.client = LiveClient(server)
        self.members: set[Member] = set()
        self.serials = itertools.count(1)
        self.graph: dict | None = None
        self.owner: Member | None = None  # who sent the prompt
        self.changed = asyncio.Event()
        self.is_new_prompt = False
        self.drawn: Frame | None = None

    def set_prompt(self, member: Member, graph: dict) -> None:
        """ValueError says what is wrong with a graph."""
        if not all(isinstance(node, dict) and isinstance(node.get("inputs"), dict) for node in graph.values()):
            raise ValueError("The prompt is no graph in API format: in the browser it is saved by Export (API).")
        kinds = {node.get("class_type") for node in graph.values()}
        for kind, shown_as in ((IMAGE, "Live Image (Vega)"), (SENDER, "Send Image (Vega)")):
            if kind not in kinds:
                raise ValueError(
                    f"There is no {shown_as} in the prompt: frames come in at Live Image, pictures go out at Send Image."
                )
        self.graph, self.owner, self.is_new_prompt = graph, member, True
        self.changed.set()

    def put_frame(self, member: Member, file: bytes) -> None:
        self.client.newest = Frame(next(self.serials), member, member.count, file)
        self.changed.set()

    def leave(self, member: Member) -> bool:
        """Whether nobody is left. Its prompt is drawn no more."""
        self.members.discard(member)
        if self.owner is member:
            self.graph = self.owner = None
        return not self.members

    async def run(self) -> None:
        """Draws whenever the frame or the prompt is newer than what was drawn: one at a time, and the rest is left out."""
        while True:
            await self.changed.wait()
            self.changed.clear()
            frame = self.client.newest
            if self.graph is None or frame is None:
                continue
            try:
                if not self.is_new_prompt and (frame is self.drawn or await self.is_same(frame)):
                    continue
                await self.draw()
            except Interrupted:
                await self.tell_all("interrupted", frame)
            except (PromptError, ValueError) as error:
                await self.tell_all("error", frame, message=str(error))
            except Exception as error:  # the next picture may be drawn all the same
                logging.error("Vega live: a picture failed: %s", error, exc_info=error)
                await self.tell_all("error", frame, message="The server failed; its log says why.")

    async def is_same(self, frame: Frame) -> bool:
        """Whether the frame differs from the one that was drawn by no more than every Live Image's threshold."""
        given = [node["inputs"].get("threshold", 0) for node in self.graph.values() if node.get("class_type") == IMAGE]
        threshold = min((value if isinstance(value, int | float) else 0) for value in given)
        if threshold <= 0 or self.drawn is None:
            return False
        if await asyncio.to_thread(frame.difference, self.drawn) > threshold:
            return False
        await self.tell_all("same", frame)
        return True

    async def draw(self) -> None:
        graph, self.is_new_prompt = self.graph, False
        if graph is None:  # its owner has just gone
            return
        targets = [id for id, node in graph.items() if node.get("class_type") == SENDER]
        try:  # a copy: the host notes in it what it has seen
            prompt = await self.client.submit(copy.deepcopy(graph), [], targets)
        except PromptError:
            if self.graph is graph:
                self.graph = None  # else each frame would be refused once more
            raise
        before = self.drawn.serial if self.drawn else 0
        await prompt.finished
        self.drawn = taken = self.client.taken or self.client.newest  # none was taken where the prompt never ran
        if self.client.newest is not taken:
            self.changed.set()
        if prompt.failure:
            raise prompt.failure
        await self.show(prompt.files, taken, max(taken.serial - before - 1, 0))

    async def show(self, images: list[EncodedImage], frame: Frame, left_out: int) -> None:
        """Returns when the fastest reader has the pictures: it decides how many are drawn."""
        for member in self.members:
            member.show(images, frame, left_out)
        if showing := [member.showing for member in self.members]:
            await asyncio.wait(showing, return_when=asyncio.FIRST_COMPLETED)

    async def tell_all(self, kind: str, frame: Frame, **fields) -> None:
        told = [member.tell(kind, frame=member.number(frame), **fields) for member in self.members if not member.is_behind()]
        await asyncio.gather(*told)
