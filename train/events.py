"""What a run tells of itself while it runs: text for people, or one JSON object a line for the program that started it."""

import json
import time


class Events:
    """Prints events where they are asked for. A step's has the seconds that are left, by the steps of this run."""

    def __init__(self, as_json: bool, steps: int):
        self.as_json, self.steps = as_json, steps
        self.began: tuple[float, int] | None = None

    def send(self, kind: str, **values) -> None:
        if self.as_json:
            print(json.dumps({"event": kind, **values}), flush=True)

    def step(self, done: int, loss: float, learning_rate: float) -> None:
        now = time.monotonic()
        if self.began is None:
            self.began = now, done
        since, first = self.began
        left = (now - since) / (done - first) * (self.steps - done) if done > first else None
        self.send("step", step=done, steps=self.steps, loss=loss, learning_rate=learning_rate, seconds_left=left)
