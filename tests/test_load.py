"""Many clients at once: nothing lost, nothing wrong, and less beside the model than the host's own way costs."""

import pytest

from bench import load


def check(clients: int, count: int) -> dict[str, load.Load]:
    """Every picture of the API under load is the one drawn alone."""
    found = load.measure(clients, count)
    ours = found[load.API].pictures
    assert len(ours) == len(found[load.HOST].pictures) == count
    assert ours == load.alone(list(ours))
    return found


def test_every_client_gets_its_own_picture():
    check(clients=4, count=12)


@pytest.mark.soak
def test_sixty_four_clients_and_two_thousand_requests(record_property):
    found = check(clients=64, count=2000)
    load.write(found, clients=64)
    for name, one in found.items():
        shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
        for share, value in shares.items():
            record_property(f"{name} {share} s", round(one.percentile(value), 2))
        record_property(f"{name} pictures/s", round(1 / one.each, 2))
        record_property(f"{name} outside the model ms", round(1000 * one.outside, 1))
    assert found[load.API].outside <= found[load.HOST].outside / 2
