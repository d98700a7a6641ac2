"""ComfyUI's garbage collections between prompts: they leave out what was imported at the start."""

import graphs

from dev import comfyui

# Another pack, which tells what a collection looks at.
PROBE = """
import gc
from aiohttp import web
from server import PromptServer

@PromptServer.instance.routes.get("/probe")
async def probe(request):
    return web.json_response({"left out": gc.get_freeze_count(), "looked at": len(gc.get_objects())})

NODE_CLASS_MAPPINGS = {}
"""


def test_modules_are_left_out_of_collections(tmp_path):
    """Half a million objects, after a picture as well: what is looked at is a tenth of that."""
    (tmp_path / "base" / "custom_nodes").mkdir(parents=True)
    (tmp_path / "base" / "custom_nodes" / "probe.py").write_text(PROBE, encoding="utf-8")
    with comfyui.serve(tmp_path / "base") as server, server.connect() as client:
        client.run(graphs.text_to_image())
        objects = server.get("/probe").json()
    assert objects["left out"] > 200_000
    assert objects["looked at"] < objects["left out"] / 3
