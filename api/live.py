"""One live picture: the newest frame through the newest prompt, one at a time, to all who are connected to it."""

import asyncio
import copy
import itertools
import logging

from server import PromptServer

from ..images.encode import EncodedImage
from ..images.live_frames import Frame
from .host_client import HostClient, Interrupted, PromptError
from .live_connection import FrameResult, LiveConnection

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


def check_graph(graph: dict) -> None:
    """ValueError says why it can't be drawn live."""
    nodes = [node if isinstance(node, dict) else {} for node in graph.values()]
    if not all(isinstance(node.get("inputs"), dict) and isinstance(node.get("class_type"), str) for node in nodes):
        raise ValueError("The prompt is no graph in API format: in the browser it is saved by Export (API).")
    kinds = {node["class_type"] for node in nodes}
    for kind, shown_as in ((IMAGE_NODE, "Live Image (Vega)"), (SEND_NODE, "Send Image (Vega)")):
        if kind not in kinds:
            raise ValueError(
                f"There is no {shown_as} in the prompt: frames come in at Live Image, pictures go out at Send Image."
            )


def lowest_threshold(graph: dict) -> float:
    """Of its Live Images; 0 where one is no number."""
    given = [node["inputs"].get("threshold", 0) for node in graph.values() if node.get("class_type") == IMAGE_NODE]
    return min((value if isinstance(value, int | float) else 0) for value in given)


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
        self.last_taken: Frame | None = None  # or found unchanged, whatever came of it
        self.last_drawn: Frame | None = None  # of the last picture of this prompt

    def set_prompt(self, connection: LiveConnection, graph: dict) -> None:
        """ValueError says what is wrong with a graph; the one that it was to replace is drawn no more."""
        if self.owner is connection:
            self.graph = None
        check_graph(graph)
        self.graph, self.owner, self.is_new_prompt, self.last_drawn = graph, connection, True, None
        self.changed.set()

    def put_frame(self, connection: LiveConnection, file: bytes) -> None:
        self.client.newest = Frame(next(self.serials), connection, connection.frame_count, file)
        self.changed.set()

    def disconnect(self, connection: LiveConnection) -> bool:
        """Whether nobody is left. Its prompt is drawn no more, and the others are told so."""
        self.connections.discard(connection)
        connection.close()
        if self.owner is connection:
            self.graph = self.owner = None
            for other in self.connections:
                other.put_result(FrameResult("waiting", None, {"message": WAITING_FOR_PROMPT_MESSAGE}))
        return not self.connections

    async def run(self) -> None:
        """Draws whenever the frame or the prompt is newer than what was drawn: one at a time, and the rest is left out."""
        while True:
            await self.changed.wait()
            self.changed.clear()
            frame, self.client.current = self.client.newest, None
            if self.graph is None or frame is None:
                continue
            try:
                if not self.is_new_prompt and (frame is self.last_taken or await self.is_unchanged(frame)):
                    continue
                await self.draw()
            except Interrupted:
                await self.broadcast("interrupted", self.client.current or frame)
            except (PromptError, ValueError) as error:
                await self.broadcast("error", self.client.current or frame, message=str(error))
            except Exception as error:  # the next picture may be drawn all the same
                logging.error("Vega live: a picture failed: %s", error, exc_info=error)
                await self.broadcast("error", self.client.current or frame, message="The server failed; its log says why.")

    async def is_unchanged(self, frame: Frame) -> bool:
        """Whether the frame differs from the one that was drawn by no more than every Live Image's threshold."""
        if (threshold := lowest_threshold(self.graph)) <= 0 or self.last_drawn is None:
            return False
        if await asyncio.to_thread(frame.difference, self.last_drawn) > threshold:
            return False
        self.last_taken = frame
        await self.broadcast("same", frame)
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
        taken = self.client.current or self.client.newest  # none was taken where the prompt never ran
        self.last_taken = self.client.current = taken
        if self.client.newest is not taken:
            self.changed.set()
        if prompt.failure:
            raise prompt.failure
        if lowest_threshold(graph) <= 0:
            taken.image = None  # decoded, a frame may have 64 MiB, and nobody looks at it again
        elif self.graph is graph:
            self.last_drawn = taken
        if prompt.files:
            await self.broadcast("picture", taken, prompt.files, left_out=max(taken.serial - before - 1, 0))
        else:  # Send Image got an empty list
            await self.broadcast("same", taken)

    async def broadcast(self, kind: str, frame: Frame, images: list[EncodedImage] | None = None, **fields) -> None:
        """Returns when the fastest reader has read the pictures: that one decides how many are drawn."""
        for connection in self.connections:
            connection.put_result(FrameResult(kind, frame, fields, images or []))
        tasks = [connection.sending for connection in self.connections]
        if images and tasks:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
