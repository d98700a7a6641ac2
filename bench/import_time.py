"""What the pack adds to the host's start: `python -m bench.import_time` prints the milliseconds of importing it."""

import asyncio
import contextlib
import json
import sys
import time

from dev.host_setup import ROOT, args

args.base_directory = str(ROOT / ".bench" / "start")  # the host's server makes folders in it
with contextlib.redirect_stdout(sys.stderr):
    import server

    import nodes  # the host's


async def measure() -> float:
    server.PromptServer(asyncio.get_running_loop())  # as in the host's start: packs may add routes to it
    await nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False)
    began = time.perf_counter()
    loaded = await nodes.load_custom_node(str(ROOT))
    seconds = time.perf_counter() - began
    if not loaded:
        raise RuntimeError("The host could not import the pack.")
    return 1000 * seconds


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        milliseconds = asyncio.run(measure())
    print(json.dumps(milliseconds))
