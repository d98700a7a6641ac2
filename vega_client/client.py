"""The asynchronous client."""

import asyncio
import base64
import contextlib
import io
import ipaddress
import random
import secrets
import uuid
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx
import stamina
from PIL import Image, ImageOps

from .errors import Failed, Lost, Refused
from .events import Events
from .overrides import override
from .reading import read
from .workflow import is_api, kinds, to_api

ANSWER = 10.0  # seconds for the first answer of a server,
RESTART = 300.0  # and for the next one of a server that has answered
BUSY = (429, 502, 503, 504)  # worth asking again
BODY = ("prompt", "extra_data", "partial_execution_targets")  # what of a body of POST /prompt says what is drawn
ASK = 10.0  # seconds without news after which /history is asked
Progress = Callable[[int, int], None]  # steps done, steps in all
Preview = Callable[[Image.Image], None]


def again(error: Exception) -> bool | float:
    """Whether, or after how many seconds, a request is worth repeating."""
    if isinstance(error, Refused):
        # All that were sent away together would be back together.
        return random.uniform(1, 2) * (error.retry_after or 1) if error.status in BUSY else False
    return isinstance(error, httpx.TransportError)


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
        self.http = httpx.AsyncClient(timeout=httpx.Timeout(60, pool=None), trust_env=not local)
        self.answered = False
        socket = f"ws{self.url.removeprefix('http')}/ws?clientId={self.id}&secret={self.secret}"
        self.events = Events(socket, **({"proxy": None} if local else {}))

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_) -> None:
        await self.close()

    async def close(self) -> None:
        await self.events.close()
        await self.http.aclose()

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
        negative_prompt with model="segmind-vega". Busy servers and broken connections are tried again for a while; then
        ConnectionError is raised, or Refused for what the server doesn't take. Callbacks need ComfyUI's own server: Ray
        Serve has no websocket.
        """
        if "samples" in fields or "base64" in fields:
            raise ValueError("generate gives one picture as an image: neither samples nor base64 is for it.")
        body = {"prompt": prompt, "seed": seed, "num_inference_steps": steps, "img_width": width, "img_height": height}
        body |= {"image": in_base64(image) if image else None, **fields}
        body = {name: value for name, value in body.items() if value is not None}
        path = f"/v1/{model}"
        if not on_progress and not on_preview:
            return await self.picture(path, body, {})
        request_id = uuid.uuid4().hex
        headers = {"X-Client-Id": self.id, "X-Client-Secret": self.secret, "X-Request-Id": request_id}
        headers["X-Previews"] = str(on_preview is not None).lower()
        async with self.events.of(request_id, told(on_progress, on_preview)):
            return await self.picture(path, body, headers)

    async def picture(self, path: str, body: dict, headers: dict) -> Image.Image:
        patient = httpx.Timeout(60, read=None, pool=None)
        response = await self.ask("POST", path, json=body, headers={**self.headers, **headers}, timeout=patient)
        image = opened(response.content)
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
        nothing; a workflow that the server forgets, because it restarted, is queued again. Failed where a node fails;
        ValueError for what is no workflow, and for one that only the browser can make a prompt of.
        """
        body = await self.body(read(workflow))
        body["prompt"] = override(body["prompt"], overrides or {})
        for _ in range(3):
            outputs = await self.outputs(body, told(on_progress, on_preview))
            if outputs is not None:
                answers = await asyncio.gather(*(self.ask("GET", path) for path in files(outputs)))
                return [opened(answer.content) for answer in answers]
        raise Lost("The server forgot this workflow three times: it restarts, or somebody clears its queue.")

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

    async def outputs(self, body: dict, listener) -> dict | None:
        """What /history says that a prompt made; None where the server has forgotten it. Failed where it failed."""
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
                    if found := (await self.get(f"/history/{prompt_id}")).get(prompt_id):
                        return made(found)
                    if not await self.is_queued(prompt_id) and prompt_id not in await self.get(f"/history/{prompt_id}"):
                        return None
            except asyncio.CancelledError:
                await asyncio.shield(self.cancel(prompt_id))
                raise

    async def put(self, body: dict) -> None:
        """Queues a prompt once, also when its answer never came: the server is asked for its id before it gets it again."""

        async def is_there() -> bool:
            return await self.is_known(body["prompt_id"])

        await self.ask("POST", "/prompt", json=body, is_there=is_there)

    async def is_known(self, prompt_id: str) -> bool:
        return await self.is_queued(prompt_id) or prompt_id in await self.get(f"/history/{prompt_id}")

    async def is_queued(self, prompt_id: str) -> bool:
        found = await self.get("/queue")
        return any(item[1] == prompt_id for item in (*found["queue_running"], *found["queue_pending"]))

    async def cancel(self, prompt_id: str) -> None:
        """Takes the prompt off the queue or interrupts it, and no other."""
        with contextlib.suppress(httpx.HTTPError):
            await self.http.post(f"{self.url}/api/jobs/{prompt_id}/cancel")

    async def get(self, path: str) -> dict:
        return (await self.ask("GET", path)).json()

    async def ask(self, method: str, path: str, is_there=None, **options) -> httpx.Response | None:
        """The answer, asked for again while the server is busy or away; None where is_there finds that it has come."""
        for_how_long = RESTART if self.answered else ANSWER
        try:
            async for attempt in stamina.retry_context(on=again, attempts=None, timeout=for_how_long):
                with attempt:
                    if attempt.num > 1 and is_there and await is_there():
                        return None
                    response = await self.http.request(method, self.url + path, **options)
                    self.answered = True
                    if response.status_code != 200:
                        raise refused(response)
        except httpx.TransportError as error:
            raise ConnectionError(f"Nothing answers at {self.url}: {error}") from None
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


def refused(response: httpx.Response) -> Refused:
    """The server's own words, from /v1 or from ComfyUI."""
    try:
        answer = response.json()
    except ValueError:
        answer = {"error": response.text[:500] or response.reason_phrase}
    said = answer.get("error")
    if isinstance(said, dict):  # ComfyUI's
        nodes = answer.get("node_errors", {}).items()
        reasons = [f"node {id}: {e['message']} ({e['details']})" for id, node in nodes for e in node["errors"]]
        said = "; ".join(reasons) or said["message"]
    after = response.headers.get("Retry-After", "")
    return Refused(str(said), response.status_code, answer.get("field"), float(after) if after.isdecimal() else None)


def told(on_progress: Progress | None, on_preview: Preview | None):
    def listener(event: str, data: dict, file: bytes | None) -> None:
        if event == "progress" and on_progress:
            on_progress(data["value"], data["max"])
        elif event == "preview" and on_preview and "batch_index" not in data:  # that is a whole picture
            on_preview(opened(file))

    return listener


def made(found: dict) -> dict:
    """The outputs of a prompt in /history; Failed where it did not end well."""
    for event, data in found["status"]["messages"]:
        if event == "execution_error":
            said = f"{data['node_type']} (node {data['node_id']}): {data['exception_message'].strip()}"
            raise Failed(said, data["node_id"])
        if event == "execution_interrupted":
            raise Failed("Somebody interrupted it.", data["node_id"])
    return found["outputs"]


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
