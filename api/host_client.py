"""The API as a client of the host's queue and websocket protocol, in the host's own process: its socket is no socket."""

import asyncio
import secrets
import time
import uuid

import comfy.model_management
import execution
from protocol import BinaryEventTypes
from server import PromptServer

from ..images import frame_codec
from ..images.encode import EncodedImage
from .follower import Follower

SAMPLE = "sample"  # the node of whose progress followers are told


class PromptError(Exception):
    """A prompt that the host refused or that failed at a node (None: at none of them)."""

    def __init__(self, message: str, node_id: str | None = None):
        super().__init__(message)
        self.node_id = node_id


class Interrupted(Exception):
    """A prompt that somebody interrupted or took off the queue: the message is a sentence without its full stop."""


class Prompt:
    """One that the host has: its pictures so far, when it began to run, and its end."""

    def __init__(self, id: str, followers: list[Follower]):
        self.id, self.followers = id, followers
        self.files: list[EncodedImage] = []
        self.began: float | None = None  # of time.perf_counter
        self.failure: Exception | None = None
        self.ended = asyncio.get_running_loop().create_future()

    def end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


class HostClient:
    """For use on the server's event loop alone."""

    closed = False  # as the host asks its sockets

    def __init__(self, server: PromptServer):
        self.server = server
        self.prompts: dict[str, Prompt] = {}
        self.id = secrets.token_hex(16)
        server.sockets[self.id] = self
        server.sockets_metadata[self.id] = {"feature_flags": {"supports_preview_metadata": True}}

    async def put(self, graph: dict, followers: list[Follower]) -> Prompt:
        """Gives the graph to the host's validation and queue, behind everything that is there; PromptError if refused."""
        prompt = Prompt(str(uuid.uuid4()), followers)
        valid, error, outputs, node_errors = await execution.validate_prompt(prompt.id, graph, None)
        if not valid:
            for node_id, found in node_errors.items():
                raise PromptError("; ".join(f"{e['message']}: {e['details']}" for e in found["errors"]), node_id)
            raise PromptError(error["message"])
        self.prompts[prompt.id] = prompt
        number, self.server.number = self.server.number, self.server.number + 1
        previews = "auto" if any(follower.previews for follower in followers) else "none"
        about = {"preview_method": previews, "create_time": int(1000 * time.time())}
        # With what the host shows to nobody: a socket opened under our id would get everything in our place.
        self.server.prompt_queue.put((number, prompt.id, graph, about, outputs, {"client_id": self.id}))
        return prompt

    def cancel(self, prompt: Prompt) -> None:
        """Takes the prompt off the queue, or interrupts it."""
        queue = self.server.prompt_queue
        if queue.delete_queue_item(lambda item: item[1] == prompt.id):
            prompt.failure = Interrupted("Nobody waits for it any more")
            self.ended(prompt)
        elif hasattr(queue, "interrupt_if_running"):
            queue.interrupt_if_running(prompt.id)
        elif any(item[1] == prompt.id for item in queue.get_current_queue_volatile()[0]):
            comfy.model_management.interrupt_current_processing()  # as ComfyUI 0.24 itself has it

    def ended(self, prompt: Prompt) -> None:
        self.prompts.pop(prompt.id, None)
        self.server.prompt_queue.delete_history_item(prompt.id)  # it is not for people's eyes, and would only grow
        prompt.end()

    def take_images(self, images: list[EncodedImage], node_metadata: dict) -> None:
        """As an ImageSink: what Send Image (Vega) was asked to send."""
        if prompt := self.prompts.get(node_metadata["prompt_id"]):
            prompt.files += images

    def is_connected(self, follower: Follower) -> bool:
        return follower.owns(self.server.sockets.get(follower.client_id))

    async def send_bytes(self, message: bytes) -> None:
        """A preview in the host's metadata frame, passed on under the request's id."""
        if (frame := frame_codec.unpack(message)) is None:
            return
        metadata, preview = frame
        if prompt := self.prompts.get(metadata.get("prompt_id")):
            for follower in prompt.followers:
                if follower.previews and self.is_connected(follower):
                    told = {"prompt_id": follower.request_id, "image_type": metadata["image_type"]}
                    payload, event = frame_codec.pack(told, preview), BinaryEventTypes.PREVIEW_IMAGE_WITH_METADATA
                    await self.server.send_bytes(event, payload, follower.client_id)

    async def send_json(self, message: dict) -> None:
        """The host's events, in the order that it queued them, and whatever packs tell everyone."""
        event, data = message["type"], message["data"]
        if event == "status":
            self.look_for_the_missing()
        if not isinstance(data, dict):
            return
        prompt = self.prompts.get(data.get("prompt_id"))
        if prompt is None:
            return
        if event == "execution_start":
            prompt.began = time.perf_counter()
        elif event == "progress" and data["node"] == SAMPLE:
            for follower in filter(self.is_connected, prompt.followers):
                told = {"prompt_id": follower.request_id, "value": data["value"], "max": data["max"], "node": None}
                await self.server.send_json("progress", told, follower.client_id)
        elif event == "execution_error":
            prompt.failure = PromptError(f"{data['exception_type']}: {data['exception_message'].strip()}", data["node_id"])
        elif event == "execution_interrupted":
            prompt.failure = Interrupted("Somebody interrupted ComfyUI while it was drawing for /v1")
        elif event == "executing" and data["node"] is None:  # the last one, after the host has written its history
            self.ended(prompt)

    def look_for_the_missing(self) -> None:
        """The host says to nobody that a person has cleared the queue; it only says that the queue has changed."""
        queue = self.server.prompt_queue
        running, queued = queue.get_current_queue_volatile()
        there = {item[1] for item in (*running, *queued)}
        for prompt in [p for p in self.prompts.values() if p.id not in there and p.began is None]:
            # One that is in the history has already run: its events are still on their way here.
            if not queue.get_history(prompt.id, map_function=bool):
                prompt.failure = Interrupted("Somebody cleared ComfyUI's queue of what it was to draw for /v1")
                self.ended(prompt)
