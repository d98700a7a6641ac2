"""The asynchronous client."""

import asyncio
import contextlib
import secrets
import uuid
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict
from urllib.parse import quote

from PIL import Image

from .callbacks import OnPreview, OnProgress, make_listener
from .events import Events, Listener
from .images import decode_image, encode_image
from .live import LivePicture, stream
from .overrides import apply_overrides
from .prompt_queue import PromptQueue
from .retry import RetryPolicy
from .transport import API_PREFIX, REQUEST_ID_HEADER, Transport, timeout
from .url import is_loopback, parse_url
from .workflow_file import read_workflow

if TYPE_CHECKING:
    from typing_extensions import Unpack  # typing has it from Python 3.11 on

DEFAULT_URL, DEFAULT_MODEL = "http://127.0.0.1:8188", "segmind-vega-rt-v1"
CLOSED_MESSAGE = "This client is closed: make another."
OTHER_LOOP_MESSAGE = "This client has worked in another event loop, or in another process: make one in each."


class ApiFields(TypedDict, total=False):
    """What generate passes on as it is: further fields of the API, whose errors say which values they may have."""

    denoise: float  # how much of the image is drawn anew
    format: Literal["jpeg", "png", "webp"]
    negative_prompt: str  # this and the others with model="segmind-vega"
    guidance_scale: float
    scheduler: str


class AsyncClient:
    """One connection for requests and one websocket, both kept open and opened anew when they break.

    key is for /v1 on servers with keys. Use it with `async with`.
    """

    def __init__(self, url: str = DEFAULT_URL, key: str | None = None):
        parsed = parse_url(url)
        self.url, self.id = str(parsed).rstrip("/"), uuid.uuid4().hex
        self.secret = secrets.token_hex(16)  # beside the id, which ComfyUI's /queue tells
        self.headers = {"x-api-key": encode_key(key)} if key else {}
        local = is_loopback(parsed)  # a proxy for the internet must not be asked for this machine
        policy = RetryPolicy(self.url)
        self.transport = Transport(self.url, policy, trust_env=not local)
        socket_url = f"ws{self.url.removeprefix('http')}/ws?clientId={self.id}&secret={self.secret}"
        self.policy, self.options = policy, {"proxy": None} if local else {}
        self.events = Events(socket_url, policy, **self.options)
        self.prompts = PromptQueue(self.transport, self.events, self.id)
        self.calls: set[asyncio.Task] = set()
        self.closed = False
        self.loop: asyncio.AbstractEventLoop | None = None  # that the connections belong to

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_) -> None:
        await self.close()

    async def close(self) -> None:
        """Gives up what is being drawn, as cancelling does, and takes it off the server before the connections go."""
        if not self.closed and self.is_other_loop():
            raise RuntimeError(OTHER_LOOP_MESSAGE)
        self.closed = True
        for call in self.calls:
            call.cancel()
        await asyncio.gather(*self.calls, return_exceptions=True)
        await self.prompts.close()
        await self.events.close()
        await self.transport.close()

    async def generate(
        self,
        prompt: str,
        *,
        seed: int = -1,
        steps: int | None = None,
        width: int | None = None,
        height: int | None = None,
        image: Image.Image | None = None,
        model: str = DEFAULT_MODEL,
        on_progress: OnProgress | None = None,
        on_preview: OnPreview | None = None,
        **fields: "Unpack[ApiFields]",
    ) -> Image.Image:
        """A picture from the HTTP API; its `info["seed"]` is the seed that drew it.

        What is not given is the server's default. image: what to start from. fields: others of the API, such as denoise, or
        negative_prompt with model="segmind-vega". Busy servers, broken connections and answers of others in the server's
        place are tried again for five minutes (one minute for a server that never answered yet); then ConnectError is
        raised, or RequestError, which is raised at once for what the server doesn't take. Callbacks need ComfyUI's own
        server: Ray Serve has no websocket.
        """
        if "samples" in fields or "base64" in fields:
            raise ValueError("generate gives one picture as an image: neither samples nor base64 is for it.")
        body = {"prompt": prompt, "seed": seed, "num_inference_steps": steps, "img_width": width, "img_height": height}
        body |= {"image": None if image is None else encode_image(image), **fields}
        body = {name: value for name, value in body.items() if value is not None}
        path, headers = API_PREFIX + quote(model, safe=""), {**self.headers, REQUEST_ID_HEADER: uuid.uuid4().hex}
        if not on_progress and not on_preview:
            return await self.call(self.request_image(path, body, headers))
        headers |= {"X-Client-Id": self.id, "X-Client-Secret": self.secret}
        headers["X-Previews"] = str(on_preview is not None).lower()
        listener = make_listener(on_progress, on_preview)
        return await self.call(self.request_image_with_events(path, body, headers, listener))

    async def queue(
        self,
        workflow: dict | str | Path,
        overrides: dict | None = None,
        *,
        on_progress: OnProgress | None = None,
        on_preview: OnPreview | None = None,
    ) -> list[Image.Image]:
        """The pictures of any workflow, in UI or API format or as POST /prompt takes it: a path, JSON, or what that holds.

        overrides: other values for inputs, "<node's id, title or class>.<input>" -> value. Connections that break lose
        nothing; a workflow that the server forgets because it restarts, or that somebody interrupts or takes off the queue,
        is queued again for five minutes of waiting: cancel the call to end it. Then PromptLostError is raised; WorkflowError
        where a node fails; ValueError for what is no workflow, and for one that only the browser can make a prompt of.
        """
        loaded, listener = read_workflow(workflow), make_listener(on_progress, on_preview)
        return await self.call(self.prompts.run(loaded, overrides or {}, listener))

    async def live(
        self,
        workflow: dict | str | Path,
        frames: AsyncIterable[Image.Image | bytes],
        overrides: dict | None = None,
        *,
        name: str = "",
    ) -> AsyncIterator[LivePicture]:
        """Draws frames through a workflow with Live Image and Send Image: the newest each time, the others are left out.

        frames: images, or files of them. Ends when the last frame has its picture; a connection that breaks is opened anew.
        Who knows the name (16 to 64 letters, digits, - or _) sees the pictures, as the server's full-screen page does.
        RequestError for what the server refuses, WorkflowError for what can't be drawn, ConnectError where nothing answers.
        """
        body = await self.call(self.prompts.body(read_workflow(workflow)))
        prompt = apply_overrides(body["prompt"], overrides or {})
        url = f"ws{self.url.removeprefix('http')}/vega/live" + (f"?name={quote(name, safe='')}" if name else "")
        headers = {header: value.decode() for header, value in self.headers.items()}
        pictures = stream(url, headers, self.policy, prompt, frames, **self.options)
        async with contextlib.aclosing(pictures):
            async for picture in pictures:
                yield picture

    async def call(self, coroutine):
        """What it returns; it ends with its caller or with the client."""
        if self.closed or self.is_other_loop():
            coroutine.close()
            raise RuntimeError(CLOSED_MESSAGE if self.closed else OTHER_LOOP_MESSAGE)
        self.loop = asyncio.get_running_loop()
        task = asyncio.create_task(coroutine)
        self.calls.add(task)
        task.add_done_callback(self.calls.discard)
        return await task

    def is_other_loop(self) -> bool:
        return self.loop not in (None, asyncio.get_running_loop())

    async def request_image_with_events(self, path: str, body: dict, headers: dict, listener: Listener) -> Image.Image:
        async with self.events.subscribe(headers[REQUEST_ID_HEADER], listener):
            return await self.request_image(path, body, headers)

    async def request_image(self, path: str, body: dict, headers: dict) -> Image.Image:
        response = await self.transport.request("POST", path, json=body, headers=headers, timeout=timeout(None))
        image = await asyncio.to_thread(decode_image, response.content)
        image.info["seed"] = int(response.headers["X-Seed"])
        return image


def encode_key(key: str) -> bytes:
    """As the server reads a header; ValueError, which doesn't show it, where no header can have it."""
    if not isinstance(key, str) or not key.isprintable() or key != key.strip():
        raise ValueError("key is no key: it must be a text, without a line's end and without spaces around it.")
    return key.encode()
