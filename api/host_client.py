"""A client of the host's queue and websocket events in the host's own process.

The host calls HostClient's send_bytes, send_json and closed as it calls those of an aiohttp websocket.
"""

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
from .graphs import SAMPLE_NODE
from .subscriber import Subscriber


class PromptError(Exception):
    """A prompt that the host rejected or that failed at a node (None: at none of them)."""

    def __init__(self, message: str, node_id: str | None = None):
        super().__init__(message)
        self.node_id = node_id


class Interrupted(Exception):
    """A prompt that somebody interrupted or took off the queue. Its message ends without a full stop."""


class Prompt:
    """One that the host has. `finished` is a future without a result; `failure` says how it ended."""

    def __init__(self, id: str, subscribers: list[Subscriber]):
        self.id, self.subscribers = id, subscribers
        self.files: list[EncodedImage] = []
        self.started_at: float | None = None  # of time.perf_counter
        self.failure: Exception | None = None
        self.finished = asyncio.get_running_loop().create_future()


class HostClient:
    """For use on the server's event loop alone."""

    closed = False  # as the host asks its sockets

    def __init__(self, server: PromptServer):
        self.server = server
        self.prompts: dict[str, Prompt] = {}
        self.is_closing = False
        self.id = secrets.token_hex(16)
        server.sockets[self.id] = self
        server.sockets_metadata[self.id] = {"feature_flags": {"supports_preview_metadata": True}}

    def close(self) -> None:
        """Takes what it has off the queue, and itself off the server's list of clients.

        What runs is interrupted; until its last event, after which /history forgets it, the client stays on that list.
        """
        self.is_closing = True
        for prompt in list(self.prompts.values()):
            self.cancel(prompt)
        self.leave_if_closed()

    def leave_if_closed(self) -> None:
        if self.is_closing and not self.prompts:
            self.server.sockets.pop(self.id, None)
            self.server.sockets_metadata.pop(self.id, None)

    async def submit(self, graph: dict, subscribers: list[Subscriber], targets: list[str] | None = None) -> Prompt:
        """Validates the graph and appends it to the host's queue; PromptError if it is not valid.

        targets: the ids of the output nodes that are wanted; None for all.
        """
        prompt = Prompt(str(uuid.uuid4()), subscribers)
        valid, error, outputs, node_errors = await execution.validate_prompt(prompt.id, graph, targets)
        if not valid:
            for node_id, node_error in node_errors.items():
                raise PromptError("; ".join(f"{e['message']}: {e['details']}" for e in node_error["errors"]), node_id)
            raise PromptError(error["message"])
        self.prompts[prompt.id] = prompt
        number, self.server.number = self.server.number, self.server.number + 1
        previews = "auto" if any(subscriber.previews for subscriber in subscribers) else "none"
        extra_data = {"preview_method": previews, "create_time": int(1000 * time.time())}
        # The client's id is among what the host shows to nobody: a socket opened with it would get everything instead.
        self.server.prompt_queue.put((number, prompt.id, graph, extra_data, outputs, {"client_id": self.id}))
        return prompt

    def cancel(self, prompt: Prompt) -> None:
        """Takes the prompt off the queue, or interrupts it."""
        queue = self.server.prompt_queue
        if queue.delete_queue_item(lambda item: item[1] == prompt.id):
            prompt.failure = Interrupted("Nobody waits for it any more")
            self.finish(prompt)
        elif hasattr(queue, "interrupt_if_running"):
            queue.interrupt_if_running(prompt.id)
        elif any(item[1] == prompt.id for item in queue.get_current_queue_volatile()[0]):
            comfy.model_management.interrupt_current_processing()  # as ComfyUI 0.24 itself has it

    def finish(self, prompt: Prompt) -> None:
        self.prompts.pop(prompt.id, None)
        self.server.prompt_queue.delete_history_item(prompt.id)  # /history is of people's prompts, and would only grow
        if not prompt.finished.done():
            prompt.finished.set_result(None)
        self.leave_if_closed()

    def take_images(self, images: list[EncodedImage], node_metadata: dict) -> None:
        """As an ImageSink: called by Send Image (Vega)."""
        if prompt := self.prompts.get(node_metadata["prompt_id"]):
            prompt.files += images

    def is_connected(self, subscriber: Subscriber) -> bool:
        return subscriber.owns(self.server.sockets.get(subscriber.client_id))

    async def send_bytes(self, message: bytes) -> None:
        """Forwards a preview, in the host's metadata frame, under the request's id."""
        if (frame := frame_codec.unpack(message)) is None:
            return
        metadata, preview = frame
        if prompt := self.prompts.get(metadata.get("prompt_id")):
            for subscriber in prompt.subscribers:
                if subscriber.previews and self.is_connected(subscriber):
                    forwarded = {"prompt_id": subscriber.request_id, "image_type": metadata["image_type"]}
                    payload, event = frame_codec.pack(forwarded, preview), BinaryEventTypes.PREVIEW_IMAGE_WITH_METADATA
                    await self.server.send_bytes(event, payload, subscriber.client_id)

    async def send_json(self, message: dict) -> None:
        """The host's events, in the order that it queued them, and whatever packs send to all clients."""
        event, data = message["type"], message["data"]
        if event == "status":
            self.find_removed_prompts()
        if not isinstance(data, dict):
            return
        prompt = self.prompts.get(data.get("prompt_id"))
        if prompt is None:
            return
        if event == "execution_start":
            prompt.started_at = time.perf_counter()
        elif event == "progress" and data["node"] == SAMPLE_NODE:
            for subscriber in filter(self.is_connected, prompt.subscribers):
                progress = {"prompt_id": subscriber.request_id, "value": data["value"], "max": data["max"], "node": None}
                await self.server.send_json("progress", progress, subscriber.client_id)
        elif event == "execution_error":
            prompt.failure = PromptError(f"{data['exception_type']}: {data['exception_message'].strip()}", data["node_id"])
        elif event == "execution_interrupted":
            prompt.failure = Interrupted("Somebody interrupted ComfyUI while it was drawing for /v1")
        elif event == "executing" and data["node"] is None:  # the last one, after the host has written its history
            self.finish(prompt)

    def find_removed_prompts(self) -> None:
        """Where a person clears the queue, the host sends nothing except that the queue has changed."""
        queue = self.server.prompt_queue
        running, queued = queue.get_current_queue_volatile()
        present = {item[1] for item in (*running, *queued)}
        for prompt in [p for p in self.prompts.values() if p.id not in present and p.started_at is None]:
            # One that is in the history has already run: its events are still on their way here.
            if not queue.get_history(prompt.id, map_function=bool):
                prompt.failure = Interrupted("Somebody cleared ComfyUI's queue of what it was to draw for /v1")
                self.finish(prompt)
