"""Many clients at once: nothing lost, nothing wrong, and less beside the model than the host's own way costs."""

import asyncio

import pytest

from bench import load, weights


def test_every_client_gets_its_own_picture(server):
    models = weights.prepare_models()
    (server.base / "models" / "loras" / models.lora).symlink_to(models.base / "models" / "loras" / models.lora)
    requests, others = load.make_requests(20)[:12], load.make_requests(20)[12:]
    drawn = asyncio.run(load.run_load(server.url, [load.post_to_api] * 4, requests)).pictures
    prompt_clients = [load.PromptClient(models) for _ in range(4)]
    assert len(asyncio.run(load.run_load(server.url, prompt_clients, others)).pictures) == len(others)
    server.free()  # what it has drawn, it has not kept
    assert drawn == asyncio.run(load.run_load(server.url, [load.post_to_api], requests)).pictures
    assert len(set(drawn.values())) == len(requests)


@pytest.mark.server
@pytest.mark.soak
def test_sixty_four_clients_and_two_thousand_requests(record_property):
    found = load.measure(clients=64, count=2000)
    ours = found[load.API_VARIANT].pictures
    assert len(ours) == len(found[load.PROMPT_VARIANT].pictures) == 2000
    assert ours == load.draw_one_by_one(list(ours))
    load.write(found, clients=64)
    for name, one in found.items():
        shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
        for share, value in shares.items():
            record_property(f"{name} {share} s", round(one.percentile(value), 2))
        record_property(f"{name} pictures/s", round(1 / one.seconds_per_picture, 2))
        record_property(f"{name} outside the model ms", round(1000 * one.seconds_outside_models, 1))
    assert found[load.API_VARIANT].seconds_outside_models <= found[load.PROMPT_VARIANT].seconds_outside_models / 2
