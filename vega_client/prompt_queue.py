"""A workflow through ComfyUI's own queue: from POST /prompt to the images that it made."""

import asyncio
import contextlib
import itertools
import uuid
from urllib.parse import quote

import httpx
from PIL import Image

from .errors import PromptLostError, RequestError, WorkflowError
from .events import Events, Listener, has_come
from .images import decode_image, image_paths
from .overrides import apply_overrides
from .transport import Transport
from .workflow import is_api, kinds, to_api

BODY_FIELDS = ("prompt", "extra_data", "partial_execution_targets")  # of POST /prompt, those that say what is drawn
POLL_SECONDS = 2.0  # without news until the server is asked: it sends none when somebody has cleared its queue
MAX_RUNS = 3  # of a workflow whose images are gone before they are fetched


class PromptQueue:
    """The queue of one server, for one client's id."""

    def __init__(self, transport: Transport, events: Events, client_id: str):
        self.transport, self.events, self.client_id = transport, events, client_id
        self.cancellations: set[asyncio.Task] = set()  # that take prompts off the server

    async def run(self, workflow: dict, overrides: dict, listener: Listener) -> list[Image.Image]:
        """The images of a workflow in any format, which is queued again where the server loses it."""
        body = await self.body(workflow)
        body["prompt"] = apply_overrides(body["prompt"], overrides)
        runs = itertools.count(1)

        async def run_once() -> list[Image.Image]:
            outputs = await self.outputs(body, listener)
            try:
                responses = await asyncio.gather(*(self.transport.request("GET", path) for path in image_paths(outputs)))
            except RequestError as error:  # of more than it keeps, some are always gone
                if error.status not in (404, 410) or next(runs) == MAX_RUNS:
                    raise
                raise PromptLostError("The server has not kept what this workflow made.") from None
            return [await asyncio.to_thread(decode_image, response.content) for response in responses]

        return await self.transport.policy.attempts(lambda error: isinstance(error, PromptLostError))(run_once)

    async def body(self, workflow: dict) -> dict:
        """What POST /prompt takes of a workflow in any format."""
        if is_api(workflow.get("prompt")):
            return {key: workflow[key] for key in BODY_FIELDS if workflow.get(key) is not None}
        if is_api(workflow):
            return {"prompt": workflow}
        prompt = to_api(workflow, await self.object_info(kinds(workflow)))
        return {"prompt": prompt, "extra_data": {"extra_pnginfo": {"workflow": workflow}}}

    async def object_info(self, kinds: set[str]) -> dict:
        """GET /object_info of these kinds of nodes, and no more: all of it is megabytes."""
        parts = await asyncio.gather(*(self.transport.get_json(f"/object_info/{quote(kind, safe='')}") for kind in kinds))
        return {kind: info for part in parts for kind, info in part.items()}

    async def outputs(self, body: dict, listener: Listener) -> dict:
        """A prompt's outputs in the server's history.

        WorkflowError where a node failed, PromptLostError where the prompt was interrupted or forgotten.
        """
        prompt_id, news = str(uuid.uuid4()), asyncio.Event()

        def on_event(event: str, data: dict, file: bytes | None) -> None:
            listener(event, data, file)
            if event == "connected" or (event == "executing" and data["node"] is None):
                news.set()

        body = {**body, "client_id": self.client_id, "prompt_id": prompt_id}
        async with self.events.subscribe(prompt_id, on_event):
            try:
                await self.submit(body)
                while True:
                    await has_come(news, POLL_SECONDS)
                    news.clear()
                    job = await self.job(prompt_id)
                    if job is None:
                        message = "The server has forgotten this workflow: it restarts, or somebody clears its queue."
                        raise PromptLostError(message)
                    if "execution_status" in job:
                        return job_outputs(job)
            except asyncio.CancelledError:
                await self.cancel(prompt_id)
                raise

    async def submit(self, body: dict) -> None:
        """Queues a prompt once, also when its answer never came: the server is asked for its id before it gets it again."""

        async def is_queued() -> bool:
            return await self.job(body["prompt_id"]) is not None

        await self.transport.request("POST", "/prompt", is_done=is_queued, json=body)

    async def job(self, prompt_id: str) -> dict | None:
        """What the server says of a prompt in one answer, with outputs and execution_status when it has ended."""
        try:
            return await self.transport.get_json(f"/api/jobs/{prompt_id}")
        except RequestError as error:
            if error.status == 404:
                return None
            raise

    async def cancel(self, prompt_id: str) -> None:
        """Takes the prompt off the queue or interrupts it, and no other, even if the caller is cancelled again."""
        cancellation = asyncio.create_task(self.send_cancel(prompt_id))
        self.cancellations.add(cancellation)
        cancellation.add_done_callback(self.cancellations.discard)
        await asyncio.shield(cancellation)

    async def send_cancel(self, prompt_id: str) -> None:
        with contextlib.suppress(httpx.HTTPError):
            response = await self.transport.post_once(f"/api/jobs/{prompt_id}/cancel")
            if response.status_code in (404, 405):  # ComfyUI 0.24
                await self.transport.post_once("/queue", {"delete": [prompt_id]})
                await self.transport.post_once("/interrupt", {"prompt_id": prompt_id})

    async def close(self) -> None:
        """Waits for prompts to be taken off the server."""
        await asyncio.gather(*self.cancellations, return_exceptions=True)


def job_outputs(job: dict) -> dict:
    """Of a prompt that has ended; WorkflowError where a node failed, PromptLostError where somebody interrupted it."""
    for event, data in job["execution_status"]["messages"]:
        if event == "execution_error":
            message = f"{data['node_type']} (node {data['node_id']}): {data['exception_message'].strip()}"
            raise WorkflowError(message, data["node_id"])
        if event == "execution_interrupted":
            raise PromptLostError("Somebody interrupts this workflow again and again.")
    return job["outputs"]
