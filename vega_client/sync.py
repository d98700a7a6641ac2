"""The client for programs that are not asynchronous."""

import asyncio
import atexit
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from .callbacks import OnPreview, OnProgress, is_synchronous
from .client import CLOSED_MESSAGE, DEFAULT_MODEL, DEFAULT_URL, OTHER_LOOP_MESSAGE, ApiFields, AsyncClient

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Client:
    """AsyncClient in a thread of its own, in which its callbacks run, too. For use with `with`, from any thread."""

    def __init__(self, url: str = DEFAULT_URL, key: str | None = None):
        self.client = AsyncClient(url, key)
        self.loop = asyncio.new_event_loop()
        self.closed, self.closing, self.process = False, threading.Lock(), os.getpid()
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
        if os.getpid() != self.process:  # a fork has no thread of it
            return
        self.check_thread()
        with self.closing:
            if self.closed:
                return
            self.closed = True
        atexit.unregister(self.close)
        asyncio.run_coroutine_threadsafe(self.shut_down(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    async def shut_down(self) -> None:
        await self.client.close()
        if rest := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(rest)
        await self.loop.shutdown_asyncgens()
        await self.loop.shutdown_default_executor()

    def generate(
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
        """As AsyncClient.generate."""
        return self.run(
            self.client.generate,
            prompt,
            seed=seed,
            steps=steps,
            width=width,
            height=height,
            image=image,
            model=model,
            on_progress=relay_exit(on_progress),
            on_preview=relay_exit(on_preview),
            **fields,
        )

    def queue(
        self,
        workflow: dict | str | Path,
        overrides: dict | None = None,
        *,
        on_progress: OnProgress | None = None,
        on_preview: OnPreview | None = None,
    ) -> list[Image.Image]:
        """As AsyncClient.queue."""
        callbacks = {"on_progress": relay_exit(on_progress), "on_preview": relay_exit(on_preview)}
        return self.run(self.client.queue, workflow, overrides, **callbacks)

    def run(self, function, *arguments, **options):
        """What a coroutine function returns, run in the thread of the client."""
        self.check_thread()
        if os.getpid() != self.process:
            raise RuntimeError(OTHER_LOOP_MESSAGE)
        with self.closing:
            if self.closed:
                raise RuntimeError(CLOSED_MESSAGE)
            future = asyncio.run_coroutine_threadsafe(function(*arguments, **options), self.loop)
        try:
            return future.result()
        except CallbackExit as exit:
            raise exit.__cause__ from None
        except BaseException:  # Ctrl-C: what is being drawn is given up, too
            future.cancel()
            raise

    def check_thread(self) -> None:
        if threading.current_thread() is self.thread:
            raise RuntimeError("A callback can't use the client that calls it, which would wait for itself.")


class CallbackExit(Exception):
    """A callback's sys.exit(), or the like, on its way to who called: it would end the loop of all calls."""


def relay_exit(callback: Callable | None) -> Callable | None:
    """A callback that raises CallbackExit for what is no Exception; what is no callback stays, to be refused."""
    if not is_synchronous(callback):
        return callback

    def relaying(*arguments) -> None:
        try:
            callback(*arguments)
        except Exception:
            raise
        except BaseException as exit:
            raise CallbackExit from exit

    return relaying
