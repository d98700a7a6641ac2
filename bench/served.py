"""A graph through the running server, timed at the client."""

import time
from typing import NamedTuple

from dev import comfyui

HEADER_BYTES = 8  # bytes before the picture in a binary frame: kind of message, kind of picture


class TimedPrompt(NamedTuple):
    """One prompt: its pictures as files' bytes, and when it was posted and they were there (time.perf_counter)."""

    pictures: list[bytes]
    posted: float
    arrived: float

    @property
    def seconds(self) -> float:
        return self.arrived - self.posted


def time_prompt(client: comfyui.Client, graph: dict, count: int) -> TimedPrompt:
    """Queues the graph and waits for `count` pictures, sent by the server or fetched as soon as it names their files.

    Returns when the prompt has ended, so that the next one finds the server idle. PromptError if pictures are missing.
    """
    pictures, arrived = [], None
    posted = time.perf_counter()
    prompt_id = client.queue(graph)
    for kind, data in client.events(prompt_id):
        if arrived is not None:
            continue
        if kind == "preview":
            pictures.append(data[HEADER_BYTES:])
        elif kind == "executed":
            pictures += [client.download(file) for file in (data["output"] or {}).get("images", [])]
        if len(pictures) >= count:
            arrived = time.perf_counter()
    if arrived is None:
        raise comfyui.PromptError(f"{len(pictures)} of {count} pictures came.")
    return TimedPrompt(pictures, posted, arrived)
