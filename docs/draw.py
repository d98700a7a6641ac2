"""Three pictures: from the HTTP API with progress, an image to image of it, and one of a workflow file.

pip install ./vega_client; python docs/draw.py [server's address]
"""

import sys
from pathlib import Path

from vega_client import Client

WORKFLOW = Path(__file__).resolve().parents[1] / "workflows" / "01 Text to picture.json"

with Client(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8188") as client:
    prompt = "a pink dawn over pine trees with a calm lake"
    image = client.generate(prompt, seed=2, on_progress=lambda step, steps: print(f"step {step} of {steps}"))
    image.save("dawn.png")
    client.generate("snow, night, full moon", image=image, denoise=0.7, seed=3).save("night.png")
    (picture,) = client.queue(WORKFLOW, {"VegaLCMSampler.seed": 5})
    picture.save("workflow.png")
    print("dawn.png, night.png, workflow.png")
