"""Callbacks of the caller, as a listener of the websocket."""

import inspect
from collections.abc import Callable

from PIL import Image

from .events import Listener
from .images import decode_image

OnProgress = Callable[[int, int], object]  # steps done, steps in all
OnPreview = Callable[[Image.Image], object]


def is_synchronous(callback: object) -> bool:
    """Whether it can be called and is done when the call returns."""
    return callable(callback) and not inspect.iscoroutinefunction(callback)


def make_listener(on_progress: OnProgress | None, on_preview: OnPreview | None) -> Listener:
    """TypeError for what is no function."""
    for name, callback in (("on_progress", on_progress), ("on_preview", on_preview)):
        if callback is not None and not is_synchronous(callback):
            raise TypeError(f"{name} must be a function, and not one that is awaited.")

    def listener(event: str, data: dict, file: bytes | None) -> None:
        if event == "progress" and on_progress:
            on_progress(data["value"], data["max"])
        elif event == "preview" and on_preview and "batch_index" not in data:  # that is a whole picture
            on_preview(decode_image(file))

    return listener
