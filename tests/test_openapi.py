"""The implementation keeps to its OpenAPI document, whatever schemathesis makes of it."""

import base64
import io
import itertools
import re

import hypothesis
import pytest
import requests
import schemathesis
from hypothesis import strategies as st
from PIL import Image
from schemathesis import GenerationMode
from vega_pack.contract import paths, schema

LARGEST = 96  # pixels: what is asked for beyond draws for minutes on a CPU
STEPS = 3


def pictures():
    def encoded(size: tuple[int, int], format: str, head: str) -> str:
        buffer = io.BytesIO()
        Image.new("RGB", size, "teal").save(buffer, format)
        return head + base64.b64encode(buffer.getvalue()).decode()

    size = st.tuples(st.integers(1, 40), st.integers(1, 40))
    return st.builds(
        encoded, size, st.sampled_from(["PNG", "JPEG", "WEBP"]), st.sampled_from(["", "data:image/png;base64,"])
    )


schemathesis.openapi.format("picture-in-base64", pictures())


def small(case):
    """The same case at a size and with steps that a CPU draws soon; what is wrong with it stays so."""
    if isinstance(case.body, dict):
        model = paths.MODELS[case.operation.path.removeprefix("/v1/")]
        most_steps = next(bound.le for bound in model.model_fields["num_inference_steps"].metadata if hasattr(bound, "le"))
        case.body.setdefault("num_inference_steps", STEPS)
        lower(case.body, "num_inference_steps", STEPS, range(1, most_steps + 1))
        for side in ("img_width", "img_height"):
            case.body.setdefault(side, LARGEST)
            lower(case.body, side, LARGEST, schema.SIZES)
    return case


def lower(body: dict, field: str, most: int, allowed: range) -> None:
    """At most so much of what may be asked for."""
    number = schema.parse_integer(body.get(field))
    if isinstance(number, int) and not isinstance(number, bool) and number in allowed and number > most:
        body[field] = type(body[field])(most)


def run(server, examples: int, **settings) -> int:
    """How many cases were sent, half of them right and half of them wrong; what the document doesn't say fails."""
    schema = schemathesis.openapi.from_url(f"{server.url}/v1/openapi.json")
    quiet = dict(deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck), **settings)
    sent = 0

    operations = [found.ok() for found in schema.get_all_operations()]
    for operation, mode in itertools.product(operations, GenerationMode):
        if mode is GenerationMode.NEGATIVE and not len(operation.body):
            continue  # there is nothing to get wrong

        @hypothesis.settings(max_examples=examples, **quiet)
        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        def one(case):
            nonlocal sent
            sent += 1
            small(case).call_and_validate(timeout=120)

        one()
    return sent


def test_every_answer_is_as_documented(server):
    assert run(server, 15, derandomize=True) >= 60  # soak explores
    assert requests.get(f"{server.url}/queue").json() == {"queue_running": [], "queue_pending": []}


@pytest.mark.parametrize("model", [schema.RealTimeRequest, schema.BaseRequest])
def test_the_strings_of_seeds_are_the_ones_that_are_taken(model):
    most = {schema.RealTimeRequest: 2**64 - 1, schema.BaseRequest: 2**64 - 2}[model]
    _, strings = model.model_json_schema()["properties"]["seed"]["anyOf"]
    numbers = [
        -2,
        -1,
        0,
        7,
        10**18,
        10**19 - 1,
        10**19,
        2**63,
        18 * 10**18,
        most - 6,
        most - 1,
        most,
        most + 1,
        most + 6,
        10**20,
    ]
    for number in numbers:
        right = -1 <= number <= most
        assert bool(re.search(strings["pattern"], str(number))) == right, number
        try:
            taken = model(prompt="a", seed=str(number)).seed == number
        except ValueError:
            taken = False
        assert taken == right, number


@pytest.mark.soak
def test_five_thousand_cases(server, record_property):
    sent = run(server, 1300)
    record_property("cases", sent)
    assert sent >= 5000
