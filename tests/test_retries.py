"""Bodies at Ray Serve's proxy: few large ones at a time, and none that stands still."""

import asyncio

from contract.body_limits import MAX_LARGE_BODIES, SMALL_BODY_BYTES, BodyLimits
from serve.retries import ReplayableBody

LARGE = {"type": "http.request", "body": b"a" * SMALL_BODY_BYTES, "more_body": True}
END = {"type": "http.request", "body": b"", "more_body": False}


class Sender:
    """A client that has sent so many bytes, and sends the rest when it is told to."""

    def __init__(self, *messages):
        self.messages = asyncio.Queue()
        for message in messages:
            self.messages.put_nowait(message)

    def body(self, bodies: BodyLimits) -> ReplayableBody:
        return ReplayableBody({"state": {}}, self.messages.get, bodies)


async def read(body: ReplayableBody) -> list:
    """The messages until the last one."""
    receive, found = body.replay(), []
    while not found or found[-1].get("more_body"):
        found.append(await receive())
    return found


def test_the_fifth_large_body_waits():
    """The fifth large body is not read before one of the others has ended."""

    async def run():
        bodies = BodyLimits(1)
        senders = [Sender(LARGE, LARGE) for _ in range(MAX_LARGE_BODIES + 1)]
        reading = [asyncio.create_task(read(sender.body(bodies))) for sender in senders]
        await asyncio.sleep(0)  # each has begun
        while any(sender.messages.qsize() for sender in senders[:MAX_LARGE_BODIES]):
            await asyncio.sleep(0.01)
        assert senders[-1].messages.qsize() == 1
        small = Sender(END)
        assert await read(small.body(bodies)) == [END]
        senders[0].messages.put_nowait(END)
        assert await reading[0] == [LARGE, LARGE, END]
        senders[-1].messages.put_nowait(END)
        assert await reading[-1] == [LARGE, LARGE, END]
        for task in reading:
            task.cancel()

    asyncio.run(run())


def test_a_body_that_stands_still_gives_its_turn_back():
    """A body that stands still is 408, and the next one has its turn."""

    async def run():
        bodies = BodyLimits(1, timeout_s=0.1)
        for messages, part in (((), 64), ((LARGE,), 512)):
            for _ in range(MAX_LARGE_BODIES + 1):
                body = Sender(*messages).body(bodies)
                assert (await read(body))[-1] == {"type": "http.disconnect"}
                assert (body.refused.status, f"{part} KiB" in str(body.refused)) == (408, True)
                await body.close()

    asyncio.run(run())


def test_a_whole_body_is_read_again():
    """A whole body is read again from its beginning, and waits for nobody."""

    async def run():
        body = Sender(LARGE, END).body(BodyLimits(1, timeout_s=0.1))
        assert await read(body) == await read(body) == [LARGE, END]
        leaves = asyncio.create_task(body.next_message())
        await asyncio.sleep(0.2)  # longer than its patience
        assert not leaves.done()
        leaves.cancel()

    asyncio.run(run())


def test_a_body_that_is_too_large_is_refused():
    async def run():
        body = Sender(*[LARGE] * 17).body(BodyLimits(1))
        assert (await read(body))[-1] == {"type": "http.disconnect"}
        assert body.refused.status == 413

    asyncio.run(run())
