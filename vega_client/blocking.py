"""The client for programs that are not asynchronous."""

import functools
from pathlib import Path

from anyio.from_thread import start_blocking_portal
from PIL import Image

from .client import AsyncClient


class Client:
    """AsyncClient in a thread of its own, in which its callbacks run, too. For use with `with`, from any thread."""

    def __init__(self, url: str = "http://127.0.0.1:8188", key: str | None = None):
        self.starting = start_blocking_portal()
        self.portal = self.starting.__enter__()
        self.client = self.portal.call(functools.partial(AsyncClient, url, key))

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self.portal.call(self.client.close)
        self.starting.__exit__(None, None, None)

    def generate(self, prompt: str, **options) -> Image.Image:
        """As AsyncClient.generate."""
        return self.run(self.client.generate, prompt, **options)

    def queue(self, workflow: dict | str | Path, overrides: dict | None = None, **options) -> list[Image.Image]:
        """As AsyncClient.queue."""
        return self.run(self.client.queue, workflow, overrides, **options)

    def run(self, call, *arguments, **options):
        future = self.portal.start_task_soon(functools.partial(call, *arguments, **options))
        try:
            return future.result()
        except BaseException:  # Ctrl-C: what is being drawn is given up, too
            future.cancel()
            raise
