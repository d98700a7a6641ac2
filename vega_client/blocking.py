"""The client for programs that are not asynchronous."""

import asyncio
import atexit
import threading
from pathlib import Path

from PIL import Image

from .client import AsyncClient


class Client:
    """AsyncClient in a thread of its own, in which its callbacks run, too. For use with `with`, from any thread."""

    def __init__(self, url: str = "http://127.0.0.1:8188", key: str | None = None):
        self.client = AsyncClient(url, key)
        self.loop = asyncio.new_event_loop()
        self.closed, self.closing = False, threading.Lock()
        # A daemon: a program that forgets to close ends all the same, and closes then.
        self.thread = threading.Thread(target=self.loop.run_forever, name="vega_client", daemon=True)
        self.thread.start()
        atexit.register(self.close)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Gives up what is being drawn."""
        self.check_thread()
        with self.closing:
            if self.closed:
                return
            self.closed = True
        atexit.unregister(self.close)
        asyncio.run_coroutine_threadsafe(self.end(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    async def end(self) -> None:
        await self.client.close()
        if rest := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(rest)
        await self.loop.shutdown_asyncgens()
        await self.loop.shutdown_default_executor()

    def generate(self, prompt: str, **options) -> Image.Image:
        """As AsyncClient.generate."""
        return self.run(self.client.generate, prompt, **options)

    def queue(self, workflow: dict | str | Path, overrides: dict | None = None, **options) -> list[Image.Image]:
        """As AsyncClient.queue."""
        return self.run(self.client.queue, workflow, overrides, **options)

    def run(self, call, *arguments, **options):
        self.check_thread()
        options |= {name: carried(options[name]) for name in ("on_progress", "on_preview") if options.get(name)}
        with self.closing:
            if self.closed:
                raise RuntimeError("This client is closed: make another.")
            future = asyncio.run_coroutine_threadsafe(call(*arguments, **options), self.loop)
        try:
            return future.result()
        except Exit as exit:
            raise exit.__cause__ from None
        except BaseException:  # Ctrl-C: what is being drawn is given up, too
            future.cancel()
            raise

    def check_thread(self) -> None:
        if threading.current_thread() is self.thread:
            raise RuntimeError("A callback can't use the client that calls it, which would wait for itself.")


class Exit(Exception):
    """A callback's sys.exit(), on its way to who called: it would end the loop of all calls."""


def carried(callback):
    def carrying(*arguments) -> None:
        try:
            callback(*arguments)
        except SystemExit as exit:
            raise Exit from exit

    return carrying
