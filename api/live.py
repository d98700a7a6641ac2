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

IMAGE_NODE, SEND_NODE = "VegaLiveImage", "VegaSendImage"
WAITING_FOR_PROMPT_MESSAGE = 'Waiting for a prompt: send {"type": "prompt", "prompt": a graph in API format}.'


class LiveHostClient(HostClient):
    """The host's client of one live session: it has the frames that its prompts draw, and gets their pictures."""

    def __init__(self, server: PromptServer):
        super().__init__(server)
        self.newest: Frame | None = None
        self.current: Frame | None = None
        self.last_latents: dict = {}

    def take_frame(self) -> str:
        """As a FrameSource; also when other people's prompts came first, so that no old frame is drawn."""
        self.current = self.newest
        return f"{self.id}:{self.current.serial}"

    def current_frame(self) -> Frame:
        return self.current


class LiveConnection:
    """A socket of a live session. Sending waits for a slow reader: little is left unread, and pictures are dropped."""

    def __init__(self, socket):
        self.socket, self.frame_count = socket, 0
        self.send_lock = asyncio.Lock()  # a picture's two messages stay together
        self.picture_task: asyncio.Task | None = None

    def is_behind(self) -> bool:
        """Whether the reader still has a picture to read."""
        return self.picture_task is not None and not self.picture_task.done()

    def frame_number(self, frame: Frame) -> int | None:
        """The frame's number among those that this socket sent."""
        return frame.number if frame.sender is self else None

    async def send_message(self, kind: str, **fields) -> None:
        """A text message; nothing where the connection has ended."""
        with contextlib.suppress(ConnectionError):
            async with self.send_lock:
                if not self.socket.closed:
                    await self.socket.send_json({"type": kind, **fields})

    def send_unless_behind(self, images: list[EncodedImage], frame: Frame, left_out: int) -> None:
        """Sends the pictures, unless the reader still has one to read."""
        if not self.is_behind():
            self.picture_task = asyncio.create_task(self.send_pictures(images, frame, left_out))

    async def send_pictures(self, images: list[EncodedImage], frame: Frame, left_out: int) -> None:
        """Each as a text message and a binary one."""
        with contextlib.suppress(ConnectionError):
            async with self.send_lock:
                for index, image in enumerate(images):
                    if self.socket.closed:
                        return
                    age_ms = round(1000 * (time.perf_counter() - frame.arrived_at), 1)
                    size = {"format": image.format, "width": image.width, "height": image.height}
                    picture = {"frame": self.frame_number(frame), "index": index, "age_ms": age_ms, "left_out": left_out}
                    await self.socket.send_json({"type": "picture", **picture, **size})
                    await self.socket.send_bytes(image.data)


class LiveSession:
    """For use on the server's event loop alone; run() ends by being cancelled."""

    def __init__(self, server: PromptServer):
        self.client = LiveHostClient(server)
        self.connections: set[LiveConnection] = set()
        self.serials = itertools.count(1)
        self.graph: dict | None = None
        self.owner: LiveConnection | None = None  # who sent the prompt
        self.changed = asyncio.Event()
        self.is_new_prompt = False
        self.last_taken: Frame | None = None  # whatever came of it
        self.last_drawn: Frame | None = None  # of the last picture of this prompt

    def set_prompt(self, connection: LiveConnection, graph: dict) -> None:
        """ValueError says what is wrong with a graph."""
        if not all(isinstance(node, dict) and isinstance(node.get("inputs"), dict) for node in graph.values()):
            raise ValueError("The prompt is no graph in API format: in the browser it is saved by Export (API).")
        kinds = {node.get("class_type") for node in graph.values()}
        for kind, shown_as in ((IMAGE_NODE, "Live Image (Vega)"), (SEND_NODE, "Send Image (Vega)")):
            if kind not in kinds:
                raise ValueError(
                    f"There is no {shown_as} in the prompt: frames come in at Live Image, pictures go out at Send Image."
                )
        self.graph, self.owner, self.is_new_prompt, self.last_drawn = graph, connection, True, None
        self.changed.set()

    def put_frame(self, connection: LiveConnection, file: bytes) -> None:
        self.client.newest = Frame(next(self.serials), connection, connection.frame_count, file)
        self.changed.set()

    def disconnect(self, connection: LiveConnection) -> bool:
        """Whether nobody is left. Its prompt is drawn no more."""
        self.connections.discard(connection)
        if self.owner is connection:
            self.graph = self.owner = None
        return not self.connections

    async def run(self) -> None:
        """Draws whenever the frame or the prompt is newer than what was drawn: one at a time, and the rest is left out."""
        while True:
            await self.changed.wait()
            self.changed.clear()
            frame = self.client.newest
            if self.graph is None or frame is None:
                continue
            try:
                if not self.is_new_prompt and (frame is self.last_taken or await self.is_unchanged(frame)):
                    continue
                await self.draw()
            except Interrupted:
                await self.broadcast_message("interrupted", frame)
            except (PromptError, ValueError) as error:
                await self.broadcast_message("error", frame, message=str(error))
            except Exception as error:  # the next picture may be drawn all the same
                logging.error("Vega live: a picture failed: %s", error, exc_info=error)
                await self.broadcast_message("error", frame, message="The server failed; its log says why.")

    async def is_unchanged(self, frame: Frame) -> bool:
        """Whether the frame differs from the one that was drawn by no more than every Live Image's threshold."""
        given = [node["inputs"].get("threshold", 0) for node in self.graph.values() if node.get("class_type") == IMAGE_NODE]
        threshold = min((value if isinstance(value, int | float) else 0) for value in given)
        if threshold <= 0 or self.last_drawn is None:
            return False
        if await asyncio.to_thread(frame.difference, self.last_drawn) > threshold:
            return False
        await self.broadcast_message("same", frame)
        return True

    async def draw(self) -> None:
        graph, self.is_new_prompt = self.graph, False
        if graph is None:  # its owner has just gone
            return
        targets = [id for id, node in graph.items() if node.get("class_type") == SEND_NODE]
        try:  # a copy: the host notes in it what it has seen
            prompt = await self.client.submit(copy.deepcopy(graph), [], targets)
        except PromptError:
            if self.graph is graph:
                self.graph = None  # else each frame would be refused once more
            raise
        before = self.last_taken.serial if self.last_taken else 0
        await prompt.finished
        self.last_taken = taken = self.client.current or self.client.newest  # none was taken where the prompt never ran
        if self.client.newest is not taken:
            self.changed.set()
        if prompt.failure:
            raise prompt.failure
        if self.graph is graph:
            self.last_drawn = taken
        await self.broadcast_pictures(prompt.files, taken, max(taken.serial - before - 1, 0))

    async def broadcast_pictures(self, images: list[EncodedImage], frame: Frame, left_out: int) -> None:
        """Returns when the fastest reader has the pictures: it decides how many are drawn."""
        for connection in self.connections:
            connection.send_unless_behind(images, frame, left_out)
        if tasks := [connection.picture_task for connection in self.connections]:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)

    async def broadcast_message(self, kind: str, frame: Frame, **fields) -> None:
        readers = [connection for connection in self.connections if not connection.is_behind()]
        sending = [reader.send_message(kind, frame=reader.frame_number(frame), **fields) for reader in readers]
        await asyncio.gather(*sending)
