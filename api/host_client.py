"""The API as a client of the host's queue and websocket protocol, in the host's own process: its socket is no socket."""

import asyncio
import secrets
import time
import uuid

import execution
from server import PromptServer

from ..pictures.picture_file import PictureFile


class PromptError(Exception):
    """A prompt that the host refused or that failed at a node (None: at none of them)."""

    def __init__(self, message: str, node_id: str | None = None):
        super().__init__(message)
        self.node_id = node_id


class Interrupted(Exception):
    """Somebody interrupted the prompt or took it off the queue."""


class Prompt:
    """One that the host has: its pictures so far, when it began to run, and its end."""

    def __init__(self, id: str):
        self.id = id
        self.files: list[PictureFile] = []
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
        self.id = secrets.token_hex(16)  # nobody else may queue under it
        server.sockets[self.id] = self

    async def put(self, graph: dict) -> Prompt:
        """Gives the graph to the host's validation and queue, behind everything that is there; PromptError if refused."""
        prompt = Prompt(str(uuid.uuid4()))
        valid, error, outputs, node_errors = await execution.validate_prompt(prompt.id, graph, None)
        if not valid:
            for node_id, found in node_errors.items():
                raise PromptError("; ".join(f"{e['message']}: {e['details']}" for e in found["errors"]), node_id)
            raise PromptError(error["message"])
        self.prompts[prompt.id] = prompt
        number, self.server.number = self.server.number, self.server.number + 1
        about = {"client_id": self.id, "preview_method": "none", "create_time": int(1000 * time.time())}
        self.server.prompt_queue.put((number, prompt.id, graph, about, outputs, {}))
        return prompt

    def cancel(self, prompt: Prompt) -> None:
        """Takes the prompt off the queue, or interrupts it."""
        queue = self.server.prompt_queue
        if queue.delete_queue_item(lambda item: item[1] == prompt.id):
            prompt.failure = Interrupted()
            self.ended(prompt)
        else:
            queue.interrupt_if_running(prompt.id)

    def ended(self, prompt: Prompt) -> None:
        self.prompts.pop(prompt.id, None)
        self.server.prompt_queue.delete_history_item(prompt.id)  # it is not for people's eyes, and would only grow
        prompt.end()

    def take_pictures(self, files: list[PictureFile], about: dict) -> None:
        """Send Image (Vega) hands over what it was asked to send."""
        if prompt := self.prompts.get(about["prompt_id"]):
            prompt.files += files

    async def send_bytes(self, message: bytes) -> None:
        """A preview, which nobody asked for."""

    async def send_json(self, message: dict) -> None:
        """The host's events, in the order that it queued them."""
        event, data = message["type"], message["data"]
        if event == "status":
            self.look_for_the_missing()
        prompt = self.prompts.get(data.get("prompt_id"))
        if prompt is None:
            return
        if event == "execution_start":
            prompt.began = time.perf_counter()
        elif event == "execution_error":
            prompt.failure = PromptError(f"{data['exception_type']}: {data['exception_message'].strip()}", data["node_id"])
        elif event == "execution_interrupted":
            prompt.failure = Interrupted()
        elif event == "executing" and data["node"] is None:  # the last one, after the host has written its history
            self.ended(prompt)

    def look_for_the_missing(self) -> None:
        """The host says to nobody that a person has cleared the queue; it only says that the queue has changed."""
        running, queued = self.server.prompt_queue.get_current_queue_volatile()
        there = {item[1] for item in (*running, *queued)}
        for prompt in [p for p in self.prompts.values() if p.id not in there and p.began is None]:
            prompt.failure = Interrupted()
            self.ended(prompt)
