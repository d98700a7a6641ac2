"""What fails beneath the HTTP API: a model, a setting, the disk or the memory; others are served on."""

import concurrent.futures
import contextlib
import re

import graphs
import psutil
import pytest
from api_calls import BASE, PROMPT, RT, post
from machine_lacks import lacks

from dev import comfyui


@pytest.mark.server
def test_a_failure_is_explained_in_the_log_under_its_id(tmp_path):
    with comfyui.serve(tmp_path, VEGA_API_MODEL="broken.safetensors") as server:
        response = post(server, prompt=PROMPT)
        assert response.status_code == 503
        log = server.log.read_text(encoding="utf-8")
        assert re.search(rf"{response.json()['id']}.*no model 'broken\.safetensors'", log)
        (server.base / "models" / "checkpoints" / "broken.safetensors").write_bytes(b"not a model")
        response = post(server, prompt=PROMPT, img_width=64, img_height=64)
        assert response.status_code == 503
        answer = response.json()
        log = server.log.read_text(encoding="utf-8")
        assert re.search(rf"{answer['id']}.*broken\.safetensors", log)


@pytest.mark.server
@pytest.mark.soak
def test_wrong_settings_are_told(tmp_path):
    with comfyui.serve(tmp_path, VEGA_API_WAITING="many", VEGA_API_KEYS="hidden", VEGA_API_KEYS_FILE="gone") as server:
        response = post(server, prompt=PROMPT)
        assert response.status_code == 503
        for name in ("VEGA_API_WAITING", "VEGA_API_KEYS_FILE"):
            assert name in response.json()["error"]
        assert "hidden" not in response.text
        log = server.log.read_text(encoding="utf-8")
        assert "VEGA_API_KEYS_FILE: there is no file 'gone'" in log
        assert "Traceback" not in log


@contextlib.contextmanager
def limited(server, name: str, soft: int):
    """The server's process within a limit of the system's, by its name in psutil."""
    process = psutil.Process(server.process.pid)
    if not hasattr(process, "rlimit"):
        lacks("limits that one process sets for another, as Linux has them")
    resource = getattr(psutil, name)
    before = process.rlimit(resource)
    process.rlimit(resource, (soft, before[1]))
    try:
        yield
    finally:
        process.rlimit(resource, before)


def test_a_full_disk_fails_only_who_saves(server, client):
    """On a full disk the API draws on, and a graph that saves gets an error."""
    expected = post(server, prompt=PROMPT, seed=6).content
    with limited(server, "RLIMIT_FSIZE", 0):  # no file can grow
        assert post(server, prompt=PROMPT, seed=6).content == expected
        with pytest.raises(comfyui.PromptError, match="File too large"):
            client.run(graphs.text_to_image(VegaLCMSampler__seed=6))
        assert post(server, prompt="sea").status_code == 200
    client.run(graphs.text_to_image(VegaLCMSampler__seed=6))


def test_a_picture_too_large_for_the_memory_fails_alone(server):
    """Its prompt gets into no log; the pictures beside it are drawn."""
    secret = "a zebra-secret-9153"
    expected = [post(server, prompt=PROMPT, seed=seed).content for seed in range(3)]
    room = psutil.Process(server.process.pid).memory_info().vms + 2**30 + 2**28
    with limited(server, "RLIMIT_AS", room), concurrent.futures.ThreadPoolExecutor(4) as pool:
        large = pool.submit(post, server, prompt=secret, num_inference_steps=1, img_width=2048, img_height=2048)
        others = [pool.submit(post, server, prompt=PROMPT, seed=seed) for seed in range(3)]
        assert [answer.result().content for answer in others] == expected
        assert large.result().status_code == 500
        id = large.result().json()["id"]
    log = server.log.read_text(encoding="utf-8")
    assert re.search(rf"{id}.*memory", log)
    assert secret not in log
    assert secret not in server.get("/internal/logs/raw").text


@pytest.mark.soak
def test_the_prompt_of_a_failed_picture_is_in_no_log(server):
    """The prompt of a picture that fails while it is drawn gets into no log."""
    room = psutil.Process(server.process.pid).memory_info().vms + 2**27
    with limited(server, "RLIMIT_AS", room):
        large = dict(num_inference_steps=1, img_width=2048, img_height=2048)
        failed = [post(server, path, prompt="a zebra-secret-9153", **large) for path in (RT, BASE)]
    assert [answer.status_code for answer in failed] == [500, 500]
    for text in (server.log.read_text(encoding="utf-8"), server.get("/internal/logs/raw").text):
        assert all(f"request {answer.json()['id']} failed" in text for answer in failed)
        assert "zebra-secret" not in text
