"""What several templates have: nodes that come together, widgets on a subgraph's face, nodes that show pictures."""

import base64
from pathlib import Path

from .graph import Graph, Model, Node, Output, Subgraph
from .host import ROOT

INPUT = ROOT / "input"
NANO, NANO_LORA = "vega-nano (embedded)", "vega-nano LCM-LoRA (embedded)"
NANO_SIDE = 256  # pixels: what vega-nano draws best
OWN_MEGAPIXELS = round(320 * 180 / 1024**2, 3)  # at 16:9, 320 wide: of a square's area a wide picture would be too long
SMALL, LARGE, COMPARED = (250, 340), (560, 640), (340, 400)  # width and height of the nodes that show the result
EXAMPLE, EXAMPLE_MASKED = "vega_example.png", "vega_example_masked.png"  # which extension.py puts into the input folder


def text_to_image(
    g: Graph,
    face: Subgraph,
    text: str,
    side: int,
    name: str | Model = NANO,
    lora: str | Model = NANO_LORA,
    control_after_generate: str = "fixed",
) -> Node:
    """Its nodes, and the last of them, which gives the picture."""
    load, fast = few_step_model(g, name, lora)
    words = prompt(g, 2, 240, load, text)
    size = add_empty_latent(g, 3, 290, side)
    drawn = sampler(g, 4, 60, fast, words, size, control_after_generate=control_after_generate)
    decode = add_decode(g, 5, 60, load, drawn, 460)
    g.group("2. Prompt and size", words, size)
    g.group("3. Draw", drawn)
    g.group("4. Picture", decode)
    face.show(prompt=(words, "text"), **size_widgets(size), **sampler_widgets(drawn), **model_widgets(load, fast))
    return decode


def few_step_model(
    g: Graph, name: str | Model = NANO, lora: str | Model = NANO_LORA, group: str = "1. Model"
) -> tuple[Node, Node]:
    """(loader, accelerated few-step model). vega-nano has a tiny autoencoder only, the others a full one."""
    load = g.node("VegaLoader", 1, -40, model_name=name, vae="tiny" if name == NANO else "full")
    lcm = g.node("VegaLCMLora", 2, -40, model=load["MODEL"], lora_name=lora)
    # Its number in the first template, which people's programs may know.
    fast = g.node("VegaAccelerate", 3, -40, id=None if 10 in g.nodes else 10, model=lcm, mode="auto")
    g.group(group, load, lcm, fast)
    return load, fast


def prompt(g: Graph, column: int, y: int, encoder: Node, text: str, title: str = "Prompt") -> Node:
    return g.node("CLIPTextEncode", column, y, title, clip=encoder["CLIP"], text=text)


def with_and_without(g: Graph, load: Node, fast: Node, text: Node, negative: Node, size: Node, **plain) -> tuple[Node, ...]:
    """(few-step sampler, plain one with these settings, picture of the one, of the other, both side by side); one seed."""
    few = sampler(g, 4, 60, fast, text, size, seed=2)
    settings = {"seed": 2, **plain, "sampler_name": "euler", "scheduler": "normal"}
    conditions = {"positive": text, "negative": negative, "latent_image": size}
    many = g.node(
        "KSampler", 4, 400, model=load["MODEL"].via(*vae_link_route(load, 700), (4, 700)), **conditions, **settings
    )
    left, right = add_decode(g, 5, 60, load, few, 760), add_decode(g, 5, 400, load, many, 760)
    both = g.node("ImageStitch", 6, 230, "Side by side", image1=left, image2=right, direction="right")
    return few, many, left, right, both


def add_empty_latent(g: Graph, column: int, y: int, side: int) -> Node:
    return g.node("EmptyLatentImage", column, y, width=side, height=side)


def sampler(
    g: Graph,
    column: int,
    y: int,
    model: Node | Output,
    positive: Node | Output,
    latent,
    control_after_generate="fixed",
    **widgets,
) -> Node:
    given = {"model": model, "positive": positive, "latent_image": latent, "seed": 1, **widgets}
    return g.node("VegaLCMSampler", column, y, control_after_generate=control_after_generate, **given)


def add_decode(g: Graph, column: int, y: int, load: Node, drawn: Node, depth: int) -> Node:
    """By what fits the loader's autoencoder, whose link runs below everything at this depth."""
    kind = "VegaTinyVAEDecode" if load.inputs["vae"] == "tiny" else "VAEDecode"
    vae = load["VAE"].via(*vae_link_route(load, depth), (column, depth), (column, y + 110))
    return g.node(kind, column, y, samples=drawn, vae=vae)


def vae_link_route(load: Node, *depths: int) -> list[tuple[int, int]]:
    """Points that lead the autoencoder's link down right beside the loader, clear of the other links."""
    return [(2, load.y + 140), *((2, depth) for depth in depths)]


def size_widgets(size: Node) -> dict:
    return {"width": (size, "width"), "height": (size, "height")}


def sampler_widgets(drawn: Node) -> dict:
    return {"steps": (drawn, "steps"), "seed": (drawn, "seed")}


def model_widgets(load: Node, fast: Node) -> dict:
    return {"model": (load, "model_name"), "lcm_lora": (fast.inputs["model"].node, "lora_name")}


def own_picture(g: Graph, is_masked: bool = False) -> tuple[Output, Output]:
    """(picture, mask). Programs get the examples inside the graph: they have no input folder of the user's."""
    if not g.is_for_programs:
        picture = g.node("LoadImage", 1, 0, image=EXAMPLE_MASKED if is_masked else EXAMPLE)
        return picture["IMAGE"], picture["MASK"]
    picture = mask = g.node("VegaReceiveImage", 1, 0, "Start picture (inside this file)", image=to_base64(INPUT / EXAMPLE))
    if is_masked:  # Receive Image shows white where the mask is, Load Image what is there
        mask = g.node("VegaReceiveImage", 1, 0, "Mask (inside this file)", image=to_base64(INPUT / EXAMPLE_MASKED))
    return picture["IMAGE"], mask["MASK"]


def to_base64(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


def start_size(g: Graph, column: int, y: int, picture: Output, megapixels: float) -> Node:
    """The whole of a picture, at a size that the model draws well."""
    size = {"upscale_method": "lanczos", "megapixels": megapixels, "resolution_steps": 8}
    return g.node("ImageScaleToTotalPixels", column, y, "Start size", image=picture, **size)


def add_image_output(
    g: Graph, kind: str, picture: Node, size: tuple[int, int], y: int = 0, column: int = 3, **widgets
) -> Node:
    node = g.node(kind, column, y, images=picture, **widgets)
    node.width, node.height = size
    return node


def add_save(g: Graph, picture: Node, size: tuple[int, int], prefix: str, y: int = 0, column: int = 3) -> None:
    add_image_output(g, "SaveImage", picture, size, y, column, filename_prefix=prefix)


def add_compare(g: Graph, one: Output, other: Node, title: str = "Before and after (needs Nodes 2.0)") -> None:
    """A slider for people, below the picture: without Nodes 2.0 the host draws none, and the title says so."""
    if not g.is_for_programs:
        width, height = COMPARED
        node = g.node("ImageCompare", 3, height + 60, title, image_a=one, image_b=other)
        node.width, node.height = width, height - 80  # so that all fits into a small window


def grid(g: Graph, column: int, y: int, pictures: Node, labels: list[str], number: int) -> tuple[Node, Node]:
    """A list's pictures in a grid two wide, a label on each: (the node that makes them large enough for text, the grid)."""
    top, side = pictures.y, 384
    texts = [g.node("PrimitiveString", column, y + 110 * k, "Label", value=label) for k, label in enumerate(labels)]
    listed = g.node("CreateList", column + 1, y + 45 * (len(labels) - 1), "All labels", inputs=texts)
    size = {"width": side, "height": side, "upscale_method": "lanczos", "crop": "center"}
    scaled = g.node("ImageScale", column + 1, top, "Size in the grid", image=pictures, **size)
    labelled = g.node("TextOverlay", column + 2, top, images=scaled, text=listed, font_size=6.0)
    whole = g.node("ImageGrid", column + 3, top, images=labelled, columns=2, cell_width=side, cell_height=side)
    g.group(f"{number}. Labels", *texts, listed)
    g.group(f"{number + 1}. Grid", labelled, whole)
    return scaled, whole
