"""The id of a request to the HTTP API: given or made, and the same in the answer, in the log and in events."""

import json
import re

from api_calls import post
from raw_http import FIELDS, request, sent


def test_one_id_from_request_to_log(server):
    """The id of a request is in its answer and in the log."""
    good = post(server, headers={"X-Request-Id": "mine:1"}, **FIELDS)
    bad = post(server, headers={"X-Request-Id": "mine:2"}, prompt="")
    assert (good.headers["X-Request-Id"], bad.headers["X-Request-Id"], bad.json()["id"]) == ("mine:1", "mine:2", "mine:2")
    log = server.log.read_text(encoding="utf-8")
    assert re.search(r"Vega API: mine:1: 200, 1 picture, \d+\.\d\d s", log)
    assert re.search(r"Vega API: mine:2: 400, \d+\.\d\d s", log)
    others = ({}, {}, {"X-Request-Id": "a b"}, {"X-Request-Id": "a" * 65})
    made = {post(server, headers=headers, prompt="").json()["id"] for headers in others}
    assert len(made) == 4
    assert all(re.fullmatch("[0-9a-f]{32}", id) for id in made)
    unreadable = sent(server, request("X-Request-Id: mine:3", "X-A: " + "a" * 9000))
    assert unreadable[1]["x-request-id"] == "mine:3"


def test_events_have_the_id_that_was_given(server, client):
    """Events name a request that came without an id by the one that it was given.

    The host's websocket of `client` has no secret: its id, which nobody can guess, is one.
    """
    answer = post(server, headers={"X-Client-Id": client.id}, **FIELDS | {"seed": 21})  # one that no other has drawn
    told = set()
    while not told:
        message = client.socket.recv()
        if isinstance(message, str) and json.loads(message)["type"] == "progress":
            told.add(json.loads(message)["data"]["prompt_id"])
    assert told == {answer.headers["X-Request-Id"]}
