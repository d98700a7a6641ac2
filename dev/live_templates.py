"""The graphs of the live templates: Live Image stands outside, where one paints and sees."""

from .graph import Graph
from .host import ROOT
from .template_parts import (
    SMALL,
    add_decode,
    add_image_output,
    few_step_model,
    model_widgets,
    prompt,
    sampler,
    sampler_widgets,
    start_size,
    to_base64,
    vae_link_route,
)

MEGAPIXELS = round(192**2 / 1024**2, 3)  # which vega-nano draws in half the time that its best size takes
PAINTING = ROOT / "dev" / "live_painting.png"


def live_paint(g: Graph) -> None:
    live(g, "paint", "Live painting (Vega RT)")


def live_webcam(g: Graph) -> None:
    live(g, "webcam", "Live webcam (Vega RT)", feedback=0.3)


def live(g: Graph, source: str, title: str, feedback: float = 0) -> None:
    """Live Image stands outside, where one paints and sees; Live Latent is there where frames follow by themselves."""
    frame = g.node("VegaLiveImage", 1, 0, picture=to_base64(PAINTING), threshold=0.0)
    frame.properties["vega_live"] = {"source": source, "side": 256, "colour": "#2f7a3d", "brush": 16}
    with g.subgraph(title) as face:
        load, fast = few_step_model(g)
        text = prompt(g, 2, 240, load, "a bright day, rolling hills with a house and the sun")
        scaled = start_size(g, 2, 510, frame["IMAGE"], MEGAPIXELS)
        # The link of feedback would cross the frame's name on its way to a node further down.
        y = 640 if feedback else 510
        start = encode = g.node("VAEEncode", 3, y, pixels=scaled, vae=load["VAE"].via(*vae_link_route(load, 654)))
        if feedback:
            start = g.node("VegaLiveLatent", 3, 510, samples=encode, feedback=feedback)
        drawn = sampler(g, 4, 60, fast, text, start, denoise=0.6)
        decode = add_decode(g, 5, 60, load, drawn, 800)
        g.group("2. Prompt", text)
        g.group("3. The frame", scaled, encode, start)
        g.group("4. Draw", drawn)
        g.group("5. Picture", decode)
        steady = {"feedback": (start, "feedback")} if feedback else {}
        face.show(
            prompt=(text, "text"),
            denoise=(drawn, "denoise"),
            **steady,
            **sampler_widgets(drawn),
            **model_widgets(load, fast),
        )
    add_image_output(g, "VegaSendImage", decode, (SMALL[0], 290), format="jpeg", quality=90, metadata=False)
