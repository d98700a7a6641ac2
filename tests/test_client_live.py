"""vega_client's live pictures from the real server."""

import asyncio

import pytest
from live_sockets import A_NAME, ANSWER_SECONDS, LiveSocket, frame, graph, plain_graph
from PIL import Image
from relay import Relay

from vega_client import AsyncClient, RequestError, WorkflowError

SHADES = (20, 90, 160)


async def slowly(drawn: asyncio.Event):
    """Each frame when the picture of the one before it is there."""
    for shade in SHADES:
        yield Image.new("RGB", (64, 64), (shade, shade, shade))
        await drawn.wait()
        drawn.clear()


async def at_once(frames):
    for one in frames:
        yield one


def collect(server, workflow: dict, frames, **options) -> list:
    async def run() -> list:
        async with AsyncClient(server.url) as client:
            return [picture async for picture in client.live(workflow, at_once(frames), **options)]

    return asyncio.run(run())


def test_frames_go_in_and_pictures_come_out(server):
    async def run() -> list:
        drawn, found = asyncio.Event(), []
        async with AsyncClient(server.url) as client:
            async for picture in client.live(plain_graph(), slowly(drawn)):
                found.append(picture)
                drawn.set()
        return found

    found = asyncio.run(run())
    assert [picture.frame for picture in found] == [1, 2, 3]
    for picture, shade in zip(found, SHADES, strict=True):
        assert abs(picture.image.getpixel((50, 50))[0] - shade) <= 1  # JPEG's rounding
        assert picture.age_s > 0


def test_the_last_of_many_frames_is_drawn(server):
    found = collect(server, plain_graph(), [frame(k) for k in range(100)])
    numbers = [picture.frame for picture in found]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 100


def test_a_slow_caller_gets_the_newest_picture(server):
    """While it was busy with one picture all frames came; the next picture is of the last of them."""

    async def run() -> list[int]:
        found, busy, all_came = [], asyncio.Event(), asyncio.Event()

        async def frames():
            yield frame(1)
            await busy.wait()
            for shade in range(2, 31):
                yield frame(shade)
                await asyncio.sleep(0.02)  # most of them are drawn
            all_came.set()

        async with AsyncClient(server.url) as client:
            async for picture in client.live(plain_graph(), frames()):
                found.append(picture.frame)
                busy.set()
                await all_came.wait()
        return found

    found = asyncio.run(run())
    assert len(found) <= 4
    assert (found[0], found[-1]) == (1, 30)


def test_overrides_are_drawn(server):
    one, other = (collect(server, graph(), [frame(90)], overrides={"3.text": text})[0] for text in ("day", "night, moon"))
    assert one.image.tobytes() != other.image.tobytes()


def test_its_graph_comes_back_when_another_has_gone(server):
    """Who shares the name may bring another graph, and take it away again."""

    def come_and_go() -> None:
        with LiveSocket(server, A_NAME) as other:
            other.prompt(graph())
            other.next("picture")

    async def run() -> list:
        drawn, found = asyncio.Event(), []

        async def frames():
            yield frame(90)
            await drawn.wait()
            drawn.clear()
            await asyncio.to_thread(come_and_go)
            while found[1:][-1:] != [(1, 90)]:  # through the first graph again
                await drawn.wait()
                drawn.clear()
            yield frame(160)

        async with AsyncClient(server.url) as client:
            async for picture in client.live(plain_graph(), frames(), name=A_NAME):
                found.append((picture.frame, picture.image.getpixel((50, 50))[0]))
                drawn.set()
        return found

    assert asyncio.run(asyncio.wait_for(run(), ANSWER_SECONDS))[-1] == (2, 160)


def test_what_is_refused_is_raised(server):
    with pytest.raises(RequestError, match="16 to 64"):
        collect(server, plain_graph(), [frame(1)], name="short")
    with pytest.raises(WorkflowError, match="no PNG, JPEG or WEBP"):
        collect(server, plain_graph(), [b"nothing"])
    with pytest.raises(WorkflowError, match="There is no Live Image"):
        collect(server, {"8": plain_graph()["8"]}, [frame(1)])
    with pytest.raises(RequestError, match="Frame 2 has 8388609 bytes; .* at most 8388608"):
        collect(server, plain_graph(), [frame(1), b"\0" * (2**23 + 1)])
    with pytest.raises(RequestError, match="The graph has .* at most 8388608"):
        collect(server, plain_graph(picture="A" * 2**23), [frame(1)])


def test_what_the_frames_raise_is_raised(server):
    async def broken():
        yield frame(1)
        raise OSError("the camera is gone")

    async def run() -> None:
        async with AsyncClient(server.url) as client:
            async for _ in client.live(plain_graph(), broken()):
                pass

    with pytest.raises(OSError, match="the camera is gone"):
        asyncio.run(run())


def test_a_broken_connection_is_opened_anew(server):
    """Frames that came meanwhile are counted on: their numbers are the caller's, whatever the connection does."""
    relay, drawn, found = Relay(server.port), asyncio.Event(), []

    async def run() -> None:
        async with AsyncClient(f"http://127.0.0.1:{relay.port}") as client:
            async for picture in client.live(plain_graph(), slowly(drawn)):
                found.append(picture.frame)
                if picture.frame == 1:
                    assert relay.disconnect_all() > 0
                drawn.set()

    asyncio.run(run())
    relay.close()
    assert found == [1, 2, 3]
