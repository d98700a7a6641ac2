"""What tests ask of an API by Ray Serve: metrics, readiness, and pictures under load."""

import concurrent.futures
import re

import requests
from api_calls import PROMPT, post, wait_for

KEY = {"x-api-key": "a-key"}

OPERATORS = ("/healthz", "/readyz", "/v1/models", "/metrics")


def counted(url: str, name: str, **labels: str) -> float:
    """The sum in the metrics there over everything that has these labels."""
    lines = [line for line in requests.get(f"{url}/metrics").text.splitlines() if re.match(rf"(ray_)?{name}[{{ ]", line)]
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    return sum(float(line.split()[-1]) for line in lines if all(label in line for label in wanted))


def at_the_port(serving) -> str:
    return f"http://127.0.0.1:{serving.metrics}"


def metrics_agree(serving, name: str, labels: dict) -> bool:
    """Whether Ray's port, which is some seconds behind, and /metrics say the same."""
    return counted(at_the_port(serving), name, **labels) == counted(serving.url, name, **labels)


def is_ready(serving) -> bool:
    return requests.get(f"{serving.url}/readyz").status_code == 200


def under_load(serving, server, seeds: range, happens, headers=None) -> None:
    """What happens while every seed is drawn loses no picture and changes none: each is the one that one server draws."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(post, serving, headers=headers, prompt=PROMPT, seed=seed) for seed in seeds]
        wait_for(lambda: any(answer.done() for answer in answers), seconds=60)
        happens()
        drawn = [answer.result() for answer in answers]
    assert {answer.status_code for answer in drawn} == {200}
    assert [answer.content for answer in drawn] == [post(server, prompt=PROMPT, seed=seed).content for seed in seeds]
