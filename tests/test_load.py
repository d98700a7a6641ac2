"""Many clients at once: nothing lost, nothing wrong, and less beside the model than the host's own way costs."""

import asyncio

import pytest

from bench import load, weights


def test_every_client_gets_its_own_picture(server):
    models = weights.models()
    (server.base / "models" / "loras" / models.lora).symlink_to(models.base / "models" / "loras" / models.lora)
    asked, others = load.requests(20)[:12], load.requests(20)[12:]
    ways = load.everyone(4, models)
    drawn = asyncio.run(load.load(server.url, ways[load.API], asked)).pictures
    assert len(asyncio.run(load.load(server.url, ways[load.HOST], others)).pictures) == len(others)
    server.free()  # what it has drawn, it has not kept
    assert drawn == asyncio.run(load.load(server.url, [load.through_the_api], asked)).pictures
    assert len(set(drawn.values())) == len(asked)


@pytest.mark.server
@pytest.mark.soak
def test_sixty_four_clients_and_two_thousand_requests(record_property):
    found = load.measure(clients=64, count=2000)
    ours = found[load.API].pictures
    assert len(ours) == len(found[load.HOST].pictures) == 2000
    assert ours == load.alone(list(ours))
    load.write(found, clients=64)
    for name, one in found.items():
        shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
        for share, value in shares.items():
            record_property(f"{name} {share} s", round(one.percentile(value), 2))
        record_property(f"{name} pictures/s", round(1 / one.each, 2))
        record_property(f"{name} outside the model ms", round(1000 * one.outside, 1))
    assert found[load.API].outside <= found[load.HOST].outside / 2
