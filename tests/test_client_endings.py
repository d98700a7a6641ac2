"""However a program ends that uses the Python client, Python has nothing to warn of: no task, connection or loop is left."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import graphs
import pytest
import relay
from api_calls import queue, wait_for

from dev import comfyui
from vega_client import AsyncClient

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """
import asyncio, contextlib, os, signal, sys, threading, time
import graphs
from vega_client import AsyncClient, Client

def drawn_long(seed):
    graph = graphs.text_to_image(VegaLCMSampler__seed=seed, VegaLCMSampler__steps=50,
                                 EmptyLatentImage__width=384, EmptyLatentImage__height=384)
    graph[graphs.SAVE] = graphs.sending(graphs.DECODE, "png")
    return graph

def long(client, seed):
    return client.queue(drawn_long(seed), on_preview=lambda _: None)

def long_of_the_api(client):
    return client.generate("snow", model="segmind-vega", steps=100, width=256, height=256, on_progress=lambda *_: None)

def ended(call, *arguments):
    try:
        return call(*arguments)
    except BaseException as error:
        return print(type(error).__name__, error, flush=True)

def fail(*_):
    raise RuntimeError("of the callback")

def leave(*_):
    sys.exit(3)

def interrupt(*_):
    raise KeyboardInterrupt

async def entered(program):
    async with AsyncClient(sys.argv[1]) as client:
        await program(client)
"""
IN_A_CALLBACK = """
with Client(sys.argv[1]) as client:
    for callback in fail, interrupt, fail:
        ended(lambda: client.generate("snow", steps=2, on_progress=callback))
    client.generate("snow", steps=2, on_progress=leave)
"""
CLOSED_UNDER_WORK = """
client = Client(sys.argv[1])
calls = [(long, client, 1), (long_of_the_api, client)]
works = [threading.Thread(target=ended, args=call) for call in calls]
for work in works: work.start()
sys.stdin.readline()
client.close()
for work in works: work.join()
"""
FORGOTTEN = """
client = Client(sys.argv[1])
client.generate("snow", steps=2, on_progress=lambda *_: None)
def work():
    with contextlib.suppress(BaseException):
        long(client, 2)
threading.Thread(target=work, daemon=True).start()
sys.stdin.readline()
"""
SYNCHRONOUS = "with Client(sys.argv[1]) as client:\n    long(client, 3)"
ASYNCHRONOUS = "asyncio.run(entered(lambda client: long(client, 4)))"
GIVEN_UP = """
async def one_of(client):
    tasks = [asyncio.create_task(work) for work in (long(client, 5), long_of_the_api(client))]
    await asyncio.to_thread(sys.stdin.readline)
    for task in tasks: task.cancel()
    await asyncio.wait(tasks)
    raise RuntimeError("of the program")
ended(asyncio.run, entered(one_of))
"""
FAILED_BESIDE = """
async def beside(client):
    await asyncio.gather(long(client, 6), wait())
async def wait():
    await asyncio.to_thread(sys.stdin.readline)
    raise RuntimeError("of the program")
ended(asyncio.run, entered(beside))
"""


FORKED = """
with Client(sys.argv[1]) as client:
    client.generate("snow", steps=2)
    child = os.fork()
    ended(lambda: print(client.generate("snow", steps=2).size, flush=True))
    if child: print(os.waitpid(child, 0)[1])
"""


def warned(said: str) -> str:
    """But for asyncio's remarks on steps that took long, which are about the machine."""
    return "".join(line for line in said.splitlines(keepends=True) if not line.startswith("Executing <"))


def run(url: str, program: str) -> subprocess.Popen:
    command = [sys.executable, "-X", "dev", "-c", PROGRAM + program, url]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}  # graphs.py lies there
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes)


@pytest.mark.parametrize(
    ("program", "at_the_host", "printed"),
    [
        (CLOSED_UNDER_WORK, 2, "CancelledError \nCancelledError \n"),
        (FORGOTTEN, 1, ""),
        (GIVEN_UP, 2, "RuntimeError of the program\n"),
        (FAILED_BESIDE, 1, "RuntimeError of the program\n"),
    ],
    ids=["closed under work", "forgotten", "given up", "failed beside"],
)
def test_a_program_that_ends_under_its_work(server, program, at_the_host, printed):
    """And nothing of it is left on the server."""
    process = run(server.url, program)
    wait_for(lambda: sum(map(len, queue(server))) == at_the_host)
    out, said = process.communicate("\n", timeout=60)
    assert (process.returncode, out, warned(said)) == (0, printed, "")
    wait_for(lambda: queue(server) == [[], []])


async def is_cancelled(url: str, ticks: int) -> bool:
    """Whether a prompt is given up that is cancelled so many ticks of the loop after the news that it has ended."""
    loop = asyncio.get_running_loop()
    # Not drawn before, and long enough: what ends while the client asks for the first time needs no news.
    graph = graphs.text_to_image(VegaLCMSampler__seed=time.time_ns() % 2**32, VegaLCMSampler__steps=16)

    def cancel(ticks: int) -> None:
        loop.call_soon(cancel, ticks - 1) if ticks else work.cancel()

    def listen(event: str, data: dict, file: bytes | None) -> None:
        if event == "executing" and data["node"] is None:
            cancel(ticks)

    async with AsyncClient(url) as client:
        work = asyncio.create_task(client.prompts.outputs({"prompt": graph}, listen))
        await asyncio.wait([work])
        return work.cancelled()


def test_a_cancellation_beside_news_is_kept(server):
    """asyncio.wait_for loses it in one tick, on Python 3.11 and older: Ctrl+C did nothing then."""
    assert [asyncio.run(is_cancelled(server.url, ticks)) for ticks in range(6)] == [True] * 6


@pytest.mark.parametrize("program", [SYNCHRONOUS, ASYNCHRONOUS], ids=["with", "async with"])
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c(server, program):
    process = run(server.url, program)
    wait_for(lambda: queue(server)[0])
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    said = warned(said)
    assert said.startswith("Traceback") and said.count("Traceback") <= 2 and said.endswith("\nKeyboardInterrupt\n")
    assert "destroyed" not in said and "Warning" not in said and "asyncgen" not in said
    wait_for(lambda: queue(server) == [[], []])


def test_an_exception_in_a_callback_is_its_callers(server):
    process = run(server.url, IN_A_CALLBACK)
    out, said = process.communicate(timeout=60)
    failed = "RuntimeError of the callback\n"
    assert (process.returncode, out, warned(said)) == (3, f"{failed}KeyboardInterrupt \n{failed}", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has none")
def test_a_fork_can_not_use_the_client_and_ends(server):
    out, said = run(server.url, FORKED).communicate(timeout=60)
    elsewhere = "RuntimeError This client has worked in another event loop, or in another process: make one in each."
    assert sorted(out.splitlines()) == ["(256, 256)", "0", elsewhere]
    assert "Traceback" not in said


def test_a_server_that_goes_away_under_its_work_and_forgets_it(server):
    program = "with Client(sys.argv[1]) as client:\n    print(len(long(client, 7)), client.generate('snow').size)"
    with relay.to(server.port) as network:
        process = run(f"http://127.0.0.1:{network.port}", program)
        wait_for(lambda: queue(server)[0])
        network.target = comfyui.free_port()
        network.disconnect_all()
        server.post("/interrupt", {})
        wait_for(lambda: queue(server) == [[], []])
        server.post("/history", {"clear": True})
        time.sleep(1)  # some attempts
        network.target = server.port
        out, said = process.communicate(timeout=120)
    assert (process.returncode, out, warned(said)) == (0, "1 (256, 256)\n", "")
