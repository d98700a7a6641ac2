"""The asynchronous client."""

import asyncio
import base64
import contextlib
import io
import ipaddress
import itertools
import secrets
import uuid
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx
from PIL import Image, ImageOps

from .errors import Failed, Lost, Refused, SomebodyElse
from .events import Events, Listener
from .overrides import override
from .patience import PERMANENT, Patience, is_passing
from .reading import read
from .workflow import is_api, kinds, to_api

API, ID = "/v1/", "X-Request-Id"
BODY = ("prompt", "extra_data", "partial_execution_targets")  # what of a body of POST /prompt says what is drawn
ASK = 2.0  # seconds without news after which the server is asked: it tells nobody that somebody has cleared its queue
GONE = 3  # times that a workflow's pictures may be gone before they are fetched
GOODBYE = 5.0  # seconds for taking work off the server
CONNECT = 10.0  # seconds for a connection
Progress = Callable[[int, int], None]  # steps done, steps in all
Preview = Callable[[Image.Image], None]


class AsyncClient:
    """One connection for requests and one websocket, both kept open and opened anew when they break.

    key is for /v1 on servers with keys. Use it with `async with`.
    """

    def __init__(self, url: str = "http://127.0.0.1:8188", key: str | None = None):
        if urlsplit(url).scheme not in ("http", "https"):
            raise ValueError(f"{url} is no address of a server: it begins with http:// or https://.")
        self.url, self.id = url.rstrip("/"), uuid.uuid4().hex
        self.secret = secrets.token_hex(16)  # beside the id, which ComfyUI's /queue tells
        self.headers = {"x-api-key": key} if key else {}
        local = is_local(urlsplit(self.url).hostname)  # a proxy for the internet must not be asked for this machine
        self.http = httpx.AsyncClient(timeout=httpx.Timeout(60, connect=CONNECT, pool=None), trust_env=not local)
        self.patience = Patience(self.url)
        self.calls: set[asyncio.Task] = set()
        self.goodbyes: set[asyncio.Task] = set()  # that take given up work off the server
        self.closed = False
        socket = f"ws{self.url.removeprefix('http')}/ws?clientId={self.id}&secret={self.secret}"
        self.events = Events(socket, self.patience, **({"proxy": None} if local else {}))

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_) -> None:
        await self.close()

    async def close(self) -> None:
        """Gives up what is being drawn, as cancelling does, and takes it off the server before the connections go."""
        self.closed = True
        for call in self.calls:
            call.cancel()
        await asyncio.gather(*self.calls, return_exceptions=True)
        await asyncio.gather(*self.goodbyes, return_exceptions=True)
        await self.events.close()
        await self.http.aclose()

    async def call(self, work):
        """What it gives; it ends with its caller or with the client."""
        if self.closed:
            work.close()
            raise RuntimeError("This client is closed: make another.")
        task = asyncio.create_task(work)
        self.calls.add(task)
        task.add_done_callback(self.calls.discard)
        return await task

    async def generate(
        self,
        prompt: str,
        *,
        seed: int = -1,
        steps: int | None = None,
        width: int | None = None,
        height: int | None = None,
        image: Image.Image | None = None,
        model: str = "segmind-vega-rt-v1",
        on_progress: Progress | None = None,
        on_preview: Preview | None = None,
        **fields,
    ) -> Image.Image:
        """A picture from the HTTP API; its `info["seed"]` is the seed that drew it.

        What is not given is the server's default. image: what to start from. fields: others of the API, such as denoise, or
        negative_prompt with model="segmind-vega". Busy servers, broken connections and answers of others in the server's
        place are tried again for five minutes (one minute for a server that never answered yet); then ConnectionError is
        raised, or Refused, which is raised at once for what the server doesn't take. Callbacks need ComfyUI's own server:
        Ray Serve has no websocket.
        """
        if "samples" in fields or "base64" in fields:
            raise ValueError("generate gives one picture as an image: neither samples nor base64 is for it.")
        body = {"prompt": prompt, "seed": seed, "num_inference_steps": steps, "img_width": width, "img_height": height}
        body |= {"image": in_base64(image) if image else None, **fields}
        body = {name: value for name, value in body.items() if value is not None}
        path, request_id = API + model, uuid.uuid4().hex
        headers = {ID: request_id}
        if not on_progress and not on_preview:
            return await self.call(self.picture(path, body, headers))
        headers |= {"X-Client-Id": self.id, "X-Client-Secret": self.secret}
        headers["X-Previews"] = str(on_preview is not None).lower()
        return await self.call(self.followed(path, body, headers, told(on_progress, on_preview)))

    async def followed(self, path: str, body: dict, headers: dict, listener: Listener) -> Image.Image:
        async with self.events.of(headers[ID], listener):
            return await self.picture(path, body, headers)

    async def picture(self, path: str, body: dict, headers: dict) -> Image.Image:
        patient = httpx.Timeout(60, connect=CONNECT, read=None, pool=None)
        response = await self.ask("POST", path, json=body, headers={**self.headers, **headers}, timeout=patient)
        image = await asyncio.to_thread(opened, response.content)
        image.info["seed"] = int(response.headers["X-Seed"])
        return image

    async def queue(
        self,
        workflow: dict | str | Path,
        overrides: dict | None = None,
        *,
        on_progress: Progress | None = None,
        on_preview: Preview | None = None,
    ) -> list[Image.Image]:
        """The pictures of any workflow, in UI or API format or as POST /prompt takes it: a path, JSON, or what that holds.

        overrides: other values for inputs, "<node's id, title or class>.<input>" -> value. Connections that break lose
        nothing; a workflow that the server forgets because it restarts, or that somebody interrupts or takes off the queue,
        is queued again for five minutes of waiting: cancel the call to end it. Then Lost is raised; Failed where a node
        fails; ValueError for what is no workflow, and for one that only the browser can make a prompt of.
        """
        return await self.call(self.pictures(read(workflow), overrides or {}, told(on_progress, on_preview)))

    async def pictures(self, workflow: dict, overrides: dict, listener: Listener) -> list[Image.Image]:
        body = await self.body(workflow)
        body["prompt"] = override(body["prompt"], overrides)
        gone = itertools.count(1)

        async def drawn() -> list[Image.Image]:
            outputs = await self.outputs(body, listener)
            try:
                answers = await asyncio.gather(*(self.ask("GET", path) for path in files(outputs)))
            except Refused as refused:  # of more than it keeps, some are always gone
                if refused.status not in (404, 410) or next(gone) == GONE:
                    raise
                raise Lost("The server has not kept what this workflow made.") from None
            return [await asyncio.to_thread(opened, answer.content) for answer in answers]

        return await self.patience.attempts(lambda error: isinstance(error, Lost))(drawn)

    async def body(self, workflow: dict) -> dict:
        """What POST /prompt takes of a workflow in any format."""
        if is_api(workflow.get("prompt")):
            return {key: workflow[key] for key in BODY if workflow.get(key) is not None}
        if is_api(workflow):
            return {"prompt": workflow}
        prompt = to_api(workflow, await self.definitions(kinds(workflow)))
        return {"prompt": prompt, "extra_data": {"extra_pnginfo": {"workflow": workflow}}}

    async def definitions(self, kinds: set[str]) -> dict:
        """What the server says of these kinds of nodes, and no more: all of it is megabytes."""
        found = await asyncio.gather(*(self.get(f"/object_info/{quote(kind, safe='')}") for kind in kinds))
        return {kind: info for one in found for kind, info in one.items()}

    async def outputs(self, body: dict, listener: Listener) -> dict:
        """What the server says that a prompt made; Failed where it failed, Lost where it was interrupted or forgotten."""
        prompt_id, news = str(uuid.uuid4()), asyncio.Event()

        def hear(event: str, data: dict, file: bytes | None) -> None:
            listener(event, data, file)
            if event == "connected" or (event == "executing" and data["node"] is None):
                news.set()

        body = {**body, "client_id": self.id, "prompt_id": prompt_id}
        async with self.events.of(prompt_id, hear):
            try:
                await self.put(body)
                while True:
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(news.wait(), ASK)
                    news.clear()
                    job = await self.job(prompt_id)
                    if job is None:
                        raise Lost("The server has forgotten this workflow: it restarts, or somebody clears its queue.")
                    if "execution_status" in job:
                        return made(job)
            except asyncio.CancelledError:
                await self.cancel(prompt_id)
                raise

    async def put(self, body: dict) -> None:
        """Queues a prompt once, also when its answer never came: the server is asked for its id before it gets it again."""

        async def is_there() -> bool:
            return await self.job(body["prompt_id"]) is not None

        await self.ask("POST", "/prompt", json=body, is_there=is_there)

    async def job(self, prompt_id: str) -> dict | None:
        """What the server says of a prompt in one answer, with outputs and execution_status when it has ended."""
        try:
            return await self.get(f"/api/jobs/{prompt_id}")
        except Refused as refused:
            if refused.status == 404:
                return None
            raise

    async def cancel(self, prompt_id: str) -> None:
        """Takes the prompt off the queue or interrupts it, and no other, even if the caller is cancelled again."""
        goodbye = asyncio.create_task(self.goodbye(prompt_id))
        self.goodbyes.add(goodbye)
        goodbye.add_done_callback(self.goodbyes.discard)
        await asyncio.shield(goodbye)

    async def goodbye(self, prompt_id: str) -> None:
        with contextlib.suppress(httpx.HTTPError):
            answer = await self.http.post(f"{self.url}/api/jobs/{prompt_id}/cancel", timeout=GOODBYE)
            if answer.status_code in (404, 405):  # ComfyUI 0.24
                await self.http.post(f"{self.url}/queue", json={"delete": [prompt_id]}, timeout=GOODBYE)
                await self.http.post(f"{self.url}/interrupt", json={"prompt_id": prompt_id}, timeout=GOODBYE)

    async def get(self, path: str) -> dict:
        return (await self.ask("GET", path)).json()

    async def ask(self, method: str, path: str, is_there=None, **options) -> httpx.Response | None:
        """The answer, asked for again under one id while it may come later; None where is_there finds that it has come."""
        headers = {ID: uuid.uuid4().hex, **options.pop("headers", {})}
        try:
            async for attempt in self.patience.attempts(is_passing):
                with attempt:
                    if attempt.retry_state.attempt_number > 1 and is_there and await is_there():
                        return None
                    response = await self.http.request(method, self.url + path, headers=headers, **options)
                    if response.status_code != 200 or (path.startswith(API) and "X-Seed" not in response.headers):
                        error = refused(response, path)
                        self.patience.answered |= not isinstance(error, SomebodyElse)
                        raise error
                    self.patience.answered = True
        except PERMANENT as error:
            raise ValueError(f"This can't be sent to {self.url}: {error}.") from None
        except httpx.RequestError as error:
            raise ConnectionError(f"Nothing answers at {self.url}: {error or type(error).__name__}") from None
        return response


def is_local(hostname: str | None) -> bool:
    try:
        return hostname == "localhost" or ipaddress.ip_address(hostname).is_loopback
    except ValueError:
        return False


def in_base64(image: Image.Image) -> str:
    """A PNG file that keeps what the server needs to see the image right: transparency, and grey of 16 bits."""
    if image.format:  # as it came from a file, and not turned by hand since
        image = ImageOps.exif_transpose(image)
    if image.mode not in ("I;16", "I;16B"):
        if image.mode[0] in "FI":
            raise ValueError(
                f"An image of mode {image.mode} doesn't say which number is white: convert it to L, I;16 or RGB."
            )
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()


def opened(file: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(file))
    image.load()
    return image


def refused(response: httpx.Response, path: str) -> Refused:
    """The server's own words, from /v1 or from ComfyUI, or those of who answers in its place."""
    try:
        answer = response.json()
    except ValueError:
        answer = None
    after = response.headers.get("Retry-After", "")
    after = float(after) if after.isdecimal() else None
    if not isinstance(answer, dict) or "error" not in answer:
        kind = SomebodyElse if is_of_somebody_else(response, path) else Refused
        return kind(response.text[:500] or response.reason_phrase, response.status_code, retry_after=after)
    said, id = answer["error"], answer.get("id") or response.headers.get(ID)
    if isinstance(said, dict):  # ComfyUI's
        nodes = answer.get("node_errors", {}).items()
        reasons = [f"node {id}: {e['message']} ({e['details']})" for id, node in nodes for e in node["errors"]]
        said = "; ".join(reasons) or said["message"]
    if response.status_code >= 500 and id and id not in said:  # the server's log explains it
        said = f"{said} (id {id})"
    return Refused(str(said), response.status_code, answer.get("field"), after, id)


def is_of_somebody_else(response: httpx.Response, path: str) -> bool:
    """Of an answer that is not the documented JSON. ComfyUI's own errors outside /v1 are not, either."""
    if not path.startswith(API):
        return False
    # Ray's proxy, when it has just been started, knows no route yet.
    return response.status_code >= 500 or response.status_code == 200 or "/-/routes" in response.text


def told(on_progress: Progress | None, on_preview: Preview | None) -> Listener:
    def listener(event: str, data: dict, file: bytes | None) -> None:
        if event == "progress" and on_progress:
            on_progress(data["value"], data["max"])
        elif event == "preview" and on_preview and "batch_index" not in data:  # that is a whole picture
            on_preview(opened(file))

    return listener


def made(job: dict) -> dict:
    """The outputs of a prompt that has ended; Failed where it did not end well, Lost where somebody interrupted it."""
    for event, data in job["execution_status"]["messages"]:
        if event == "execution_error":
            said = f"{data['node_type']} (node {data['node_id']}): {data['exception_message'].strip()}"
            raise Failed(said, data["node_id"])
        if event == "execution_interrupted":
            raise Lost("Somebody interrupts this workflow again and again.")
    return job["outputs"]


def files(outputs: dict) -> list[str]:
    """The paths of all pictures: those in the server's memory (Send Image) and those in its folders."""
    paths = []
    for output in outputs.values():
        if sent := output.get("sent"):  # the same may be in a folder, too, for clients that look there
            paths += [entry["url"] for entry in sent]
            continue
        for file in output.get("images", []):
            if Path(file["filename"]).suffix.lower() not in Image.registered_extensions():
                continue  # PreviewVideo's are here, too
            paths.append(f"/view?{httpx.QueryParams({key: file[key] for key in ('filename', 'subfolder', 'type')})}")
    return paths
