"""What SIGTERM does in the pack's hands, beside what another pack made of it before. No server: the signals are real."""

import asyncio
import contextlib
import os
import signal
import threading

import pytest
from vega_pack.api.drain import Drain, ServerStopping

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM")


@pytest.fixture
def others():
    """The signals that another pack's handler got, which was there first."""
    got = []
    before = signal.signal(signal.SIGTERM, lambda *_: got.append(signal.SIGTERM))
    yield got
    signal.signal(signal.SIGTERM, before)


async def moment(until) -> None:
    while not until():
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def terminated_during_a_request():
    """A Drain that has got SIGTERM while one request is active; the request is finished on the way out."""
    drain = Drain()
    drain.install()
    with drain.active_request():
        os.kill(os.getpid(), signal.SIGTERM)
        await moment(lambda: drain.is_draining)
        yield drain


def test_without_work_the_handler_that_was_there_has_it_at_once(others):
    async def scene():
        drain = Drain()
        drain.install()
        os.kill(os.getpid(), signal.SIGTERM)
        await moment(lambda: others)
        with pytest.raises(ServerStopping, match="being stopped"):
            drain.check()

    asyncio.run(scene())
    assert len(others) == 1


def test_work_is_finished_first_and_nothing_new_begun(others):
    async def scene():
        async with terminated_during_a_request() as drain:
            with pytest.raises(ServerStopping), drain.active_request():
                pass
            assert drain.active_requests == 1
            assert not others
        await moment(lambda: others)

    asyncio.run(scene())
    assert len(others) == 1


def test_a_second_signal_does_not_wait(others):
    async def scene():
        async with terminated_during_a_request():
            os.kill(os.getpid(), signal.SIGTERM)
            assert others

    asyncio.run(scene())


def test_what_is_never_finished_is_given_up(others, monkeypatch, caplog):
    monkeypatch.setattr("vega_pack.api.drain.DRAIN_TIMEOUT_SECONDS", 0)

    async def scene():
        async with terminated_during_a_request():
            await moment(lambda: others)

    asyncio.run(scene())
    assert "1 requests are not finished" in caplog.text


def test_who_ignores_the_signal_goes_on_ignoring_it(others):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

    async def scene():
        Drain().install()

    asyncio.run(scene())
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN


def test_a_server_in_another_thread_is_left_alone(others):
    before = signal.getsignal(signal.SIGTERM)

    async def scene():
        Drain().install()

    thread = threading.Thread(target=lambda: asyncio.run(scene()))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before
