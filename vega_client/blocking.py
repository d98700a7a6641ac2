"""The client for programs that are not asynchronous."""

import asyncio
import threading
from pathlib import Path

from PIL import Image

from .client import AsyncClient


class Client:
    """AsyncClient in a thread of its own, in which its callbacks run, too. For use with `with`, from any thread."""

    def __init__(self, url: str = "http://127.0.0.1:8188", key: str | None = None):
        self.client = AsyncClient(url, key)
        self.loop = asyncio.new_event_loop()
        # A daemon: a program that forgets to close ends all the same.
        self.thread = threading.Thread(target=self.loop.run_forever, name="vega_client", daemon=True)
        self.thread.start()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self.run(self.end)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    async def end(self) -> None:
        """Calls that were given up take their work off the server before the connections go."""
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        await self.client.close()

    def generate(self, prompt: str, **options) -> Image.Image:
        """As AsyncClient.generate."""
        return self.run(self.client.generate, prompt, **options)

    def queue(self, workflow: dict | str | Path, overrides: dict | None = None, **options) -> list[Image.Image]:
        """As AsyncClient.queue."""
        return self.run(self.client.queue, workflow, overrides, **options)

    def run(self, call, *arguments, **options):
        future = asyncio.run_coroutine_threadsafe(call(*arguments, **options), self.loop)
        try:
            return future.result()
        except BaseException:  # Ctrl-C: what is being drawn is given up, too
            future.cancel()
            raise
