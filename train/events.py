"""What a run tells of itself while it runs: text for people, or one JSON object a line for the program that started it."""

import io
import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence

from tqdm import tqdm


class Events:
    """Prints events where they are asked for. A step's has the seconds that are left, by the steps of this run.

    Where nobody reads them any more the run ends as at SIGTERM, saved: a program that dies leaves no training behind.
    """

    def __init__(self, as_json: bool, steps: int):
        self.as_json, self.steps = as_json, steps
        self.began: tuple[float, int] | None = None

    def send(self, kind: str, **values) -> None:
        if not self.as_json:
            return
        try:
            print(json.dumps({"event": kind, **values}), flush=True)
        except OSError:
            self.as_json, sys.stdout = False, io.StringIO()  # else the next word fails in the midst of saving
            signal.raise_signal(signal.SIGTERM)

    def step(self, done: int, loss: float, learning_rate: float) -> None:
        now = time.monotonic()
        if self.began is None:
            self.began = now, done
        since, first = self.began
        left = (now - since) / (done - first) * (self.steps - done) if done > first else None
        self.send("step", step=done, steps=self.steps, loss=loss, learning_rate=learning_rate, seconds_left=left)

    def track(self, items: Sequence, what: str) -> Iterator:
        """The items; before each an event says how many are done. On a terminal a bar shows it."""
        for done, item in enumerate(tqdm(items, desc=what, mininterval=1, disable=None)):
            self.send("progress", what=what, done=done, total=len(items))
            yield item


SILENT = Events(False, 0)
