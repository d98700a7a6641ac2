"""Draws the pictures of the README, the help pages, the templates and the registry, with the real ComfyUI: `make pictures`.

`python -m dev.pictures help_pictures animation` draws only these parts.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from vega_client import Client

from . import animation, browser, comfyui, help_pictures, registry_pictures, thumbnails

PACK_FOLDER = "vega-rt"  # the pack's, as the README has it installed
PARTS = ("thumbnails", "registry_pictures", "animation", "help_pictures")
SETTINGS = {"Comfy.Minimap.Visible": False, "Comfy.Graph.CanvasInfo": False, "Comfy.NodeBadge.NodeSourceBadgeMode": "None"}
SCALE = 2  # for screens with two pixels to a point


def main() -> None:
    asked = sys.argv[1:] or PARTS
    if unknown := set(asked) - set(PARTS):
        raise SystemExit(f"No pictures are called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}.")
    chromium = shutil.which("chromium")
    if not chromium:
        raise SystemExit("The pictures need chromium on the PATH.")
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "comfyui"
        help_pictures.place_files(base / "models")
        with comfyui.serve(base, folder=PACK_FOLDER) as server, Client(server.url) as client:
            for name, value in SETTINGS.items():
                server.post("/settings", {name: value})
            with browser.open_page(server, Path(folder) / "profile", chromium, SCALE) as page:
                draw = {
                    "thumbnails": lambda: thumbnails.write(client),
                    "registry_pictures": lambda: registry_pictures.write(client),
                    "help_pictures": lambda: help_pictures.write(page, client),
                    "animation": lambda: animation.write(page),
                }
                for part in PARTS:
                    if part in asked:
                        draw[part]()


if __name__ == "__main__":
    main()
