"""The graphs of the templates: what is inside each subgraph, what it shows on its face, and what stands beside it."""

import base64
from pathlib import Path

from .graph import Graph, Model, Node, Output, Subgraph
from .host import ROOT

INPUT, PAINTING = ROOT / "input", ROOT / "dev" / "live_painting.png"
NANO, NANO_LORA = "vega-nano (embedded)", "vega-nano LCM-LoRA (embedded)"
LCM = "pytorch_lora_weights.safetensors"  # all published LCM-LoRAs have this name
HUB = "https://huggingface.co"


def on_hub(repository: str, directory: str, size: str, file: str, name: str = "") -> Model:
    return Model(name or file, f"{HUB}/{repository}/resolve/main/{file}", directory, size)


VEGA = on_hub("segmind/Segmind-Vega", "checkpoints", "3.3 GB", "segmind-vega.safetensors")
VEGA_RT = on_hub("segmind/Segmind-VegaRT", "loras", "239 MB", LCM, "Segmind-VegaRT.safetensors")
REALVIS = on_hub("SG161222/RealVisXL_V2.0", "checkpoints", "6.9 GB", "RealVisXL_V2.0.safetensors")
SDXL = on_hub("stabilityai/stable-diffusion-xl-base-1.0", "checkpoints", "6.9 GB", "sd_xl_base_1.0.safetensors")
LCM_SDXL = on_hub("latent-consistency/lcm-lora-sdxl", "loras", "394 MB", LCM, "lcm-lora-sdxl.safetensors")
LCM_SD15 = on_hub("latent-consistency/lcm-lora-sdv1-5", "loras", "135 MB", LCM, "lcm-lora-sdv1-5.safetensors")
LIGHTNING = on_hub("ByteDance/SDXL-Lightning", "loras", "394 MB", "sdxl_lightning_4step_lora.safetensors")
HYPER_SD = on_hub("ByteDance/Hyper-SD", "loras", "787 MB", "Hyper-SDXL-4steps-lora.safetensors")
DMD2 = on_hub("tianweiy/DMD2", "loras", "394 MB", "dmd2_sdxl_4step_lora_fp16.safetensors")
PIXEL_ART = on_hub("nerijs/pixel-art-xl", "loras", "171 MB", "pixel-art-xl.safetensors")
CANNY = on_hub("lllyasviel/sd_control_collection", "controlnet", "0.5 GB", "diffusers_xl_canny_mid.safetensors")
NANO_SIDE = 192  # pixels: what vega-nano draws best
NANO_MEGAPIXELS = round(NANO_SIDE**2 / 1024**2, 3)
OWN_MEGAPIXELS = round(NANO_SIDE * 128 / 1024**2, 3)  # of pictures of any shape, of which the longer side counts
SMALL, LARGE, COMPARED = (250, 340), (560, 640), (340, 400)  # width and height of the nodes that show the result
EXAMPLE, EXAMPLE_MASKED = "vega_example.png", "vega_example_masked.png"  # which extension.py puts into the input folder


def txt2img(g: Graph) -> None:
    with g.subgraph("Text to picture (Vega RT)") as face:
        picture = text_to_image(
            g, face, "a pink dawn over pine trees with a calm lake", NANO_SIDE, control_after_generate="randomize"
        )
    add_save(g, picture, SMALL, "vega")


def txt2img_1024(g: Graph) -> None:
    text = "a lighthouse on a cliff at sunset, waves, dramatic clouds, highly detailed"
    with g.subgraph("Text to picture (Vega RT, 1024)") as face:
        picture = text_to_image(g, face, text, 1024, VEGA, VEGA_RT, control_after_generate="randomize")
    add_save(g, picture, LARGE, "vega")


def img2img(g: Graph) -> None:
    picture, _ = own_picture(g)
    with g.subgraph("Picture to picture (Vega RT)") as face:
        load, fast = few_step_model(g)
        text = prompt(g, 2, 240, load, "a bright day, pine trees with a calm lake, the sun")
        scaled = start_size(g, 2, 510, picture, OWN_MEGAPIXELS)
        encode = g.node("VAEEncode", 3, 510, pixels=scaled, vae=load["VAE"].via(*vae_link_route(load, 654)))
        drawn = sampler(g, 4, 60, fast, text, encode, denoise=0.7)
        decode = add_decode(g, 5, 60, load, drawn, 740)
        g.group("2. Prompt", text)
        g.group("3. Start picture", scaled, encode)
        g.group("4. Draw", drawn)
        g.group("5. Picture", decode)
        face.show(prompt=(text, "text"), denoise=(drawn, "denoise"), **sampler_widgets(drawn), **model_widgets(load, fast))
    add_save(g, decode, COMPARED, "vega")
    add_compare(g, picture, decode)


def inpaint(g: Graph) -> None:
    """One picture with its mask as alpha: what scales or cuts the one does so to the other.

    At the end the picture itself lies over what was drawn, except for the mask.
    """
    picture, mask = own_picture(g, is_masked=True)
    with g.subgraph("Inpaint (Vega RT)", input_node_offset=20) as face:
        load, fast = few_step_model(g)
        text = prompt(g, 2, 240, load, "a bright day, pine trees with a calm lake, the sun, clouds")
        joined = g.node("JoinImageWithAlpha", 2, 510, "Picture and mask", image=picture, alpha=mask)
        # Only "area" keeps the colours under the mask, and zeros zero.
        size = {"upscale_method": "area", "megapixels": OWN_MEGAPIXELS, "resolution_steps": 8}
        scaled = g.node("ImageScaleToTotalPixels", 3, 510, "Start size", image=joined, **size)
        start = g.node("SplitImageWithAlpha", 4, 510, image=scaled)
        # Half the side of what one latent covers: all that the mask touches is drawn anew.
        touched = g.node(
            "GrowMask", 5, 570, "All that the mask touches", mask=start["MASK"], expand=4, tapered_corners=False
        )
        conditions = {"positive": text, "negative": text, "vae": load["VAE"].via(*vae_link_route(load, 420), (6, 420))}
        encode = g.node("InpaintModelConditioning", 6, 360, **conditions, pixels=start["IMAGE"], mask=touched)
        drawn = sampler(g, 7, 300, fast["MODEL"].via((7, 180)), encode["positive"], encode["latent"])
        decode = add_decode(g, 8, 400, load, drawn, 760)

        sides = g.node("GetImageSize", 3, 880, image=joined)  # grows when it has run
        whole = g.node("SplitImageWithAlpha", 3, 1060, "The whole picture", image=joined)
        keep = g.node("ImageToMask", 3, 1150, "What stays", image=joined, channel="alpha")
        feather = g.node("PrimitiveInt", 3, 1370, "Feather", value=4)
        grown = g.node("GrowMask", 4, 1260, mask=keep, expand=feather, tapered_corners=False)
        image = g.node("MaskToImage", 5, 1260, mask=grown)
        blurred = g.node("ImageBlur", 6, 1260, image=image, blur_radius=feather["INT"].via((5, 1400), (6, 1400)), sigma=1.0)
        soft = g.node("ImageToMask", 7, 1260, image=blurred, channel="red")
        # Added, so that what stays whole is exactly 1, whatever the blur rounds to; what is half painted is left as it is.
        stays = g.node("ThresholdMask", 4, 1140, "What stays whole", mask=keep, value=0.99)["MASK"].via((5, 1160), (8, 1160))
        edge = g.node("MaskComposite", 8, 1220, "Soft edge", destination=stays, source=soft, operation="add")
        large = {"upscale_method": "lanczos", "width": sides["width"], "height": sides["height"], "crop": "disabled"}
        resized = g.node("ImageScale", 9, 400, "Back to its size", image=decode, **large)
        original = {"source": whole["IMAGE"].via((9, 1070)), "mask": edge}
        pasted = g.node("ImageCompositeMasked", 9, 700, "What stays, on top", destination=resized, **original)
        g.group("2. Prompt", text)
        g.group("3. Picture and mask", joined, scaled, start, touched)
        g.group("4. Draw", encode, drawn, decode)
        g.group("5. What stays, as it was", sides, whole, keep, feather, grown, image, blurred, soft, stays.node, edge)
        g.group("6. Picture", resized, pasted)
        face.show(
            prompt=(text, "text"),
            feather=(feather, "value"),
            denoise=(drawn, "denoise"),
            **sampler_widgets(drawn),
            **model_widgets(load, fast),
        )
    add_save(g, pasted, COMPARED, "vega")
    add_compare(g, picture, pasted)


def live_drawing(g: Graph) -> None:
    with g.subgraph("Live prompt (Vega RT)") as face:
        picture = text_to_image(g, face, "night, desert, full moon", NANO_SIDE)
    add_image_output(g, "VegaSendImage", picture, (260, 420), format="jpeg", quality=95, metadata=False)


def steps_compared(g: Graph) -> None:
    counts = (1, 2, 4, 8)
    with g.subgraph("Steps compared (Vega RT)") as face:
        load, fast = few_step_model(g)
        text = prompt(g, 2, 240, load, "a red sunset over snowy mountains with a lake")
        size = add_empty_latent(g, 3, 290, NANO_SIDE)
        numbers = [g.node("PrimitiveInt", 2, 530 + 130 * k, "Steps", value=count) for k, count in enumerate(counts)]
        steps = g.node("CreateList", 3, 690, "All steps", inputs=numbers)
        drawn = sampler(g, 4, 60, fast, text, size, steps=steps)
        decode = add_decode(g, 5, 60, load, drawn, 1070)
        scaled, whole = grid(g, 5, 400, decode, ["1 step", *(f"{count} steps" for count in counts[1:])], 5)
        g.group("2. Prompt and size", text, size)
        g.group("3. Steps to compare", *numbers, steps)
        g.group("4. Draw", drawn, decode, scaled)
        face.show(prompt=(text, "text"), **size_widgets(size), seed=(drawn, "seed"), **model_widgets(load, fast))
    add_save(g, whole, LARGE, "vega_compared")


def plain_beside_rt(g: Graph) -> None:
    with g.subgraph("With the LCM-LoRA and without") as face:
        load, fast = few_step_model(g, group="1. Model and LCM-LoRA")
        text = prompt(g, 2, 240, load, "a red sunset over snowy mountains with a lake")
        negative = prompt(g, 2, 460, load, "clouds, night", "Negative prompt")
        size = add_empty_latent(g, 3, 290, NANO_SIDE)
        rt, plain, few, many, both = with_and_without(g, load, fast, text, negative, size, steps=25, cfg=9.0)
        g.group("2. Prompts and size", text, negative, size)
        g.group("3. With the LCM-LoRA: 4 steps", rt, few)
        g.group("4. Without: 25 steps, CFG 9", plain, many)
        g.group("5. Left and right", both)
        face.show(
            prompt=(text, "text"),
            negative=(negative, "text"),
            **size_widgets(size),
            seed=[(rt, "seed"), (plain, "seed")],
            **model_widgets(load, fast),
        )
    add_save(g, both, COMPARED, "vega_compared")
    add_compare(g, few["IMAGE"], many, "Left: 4 steps, right: 25 (needs Nodes 2.0)")


def realvisxl_lcm(g: Graph) -> None:
    text = "photo of an old fisherman mending a net at the harbour, morning light, detailed"
    with g.subgraph("Text to picture (RealVisXL, LCM-LoRA)") as face:
        picture = text_to_image(g, face, text, 1024, REALVIS, LCM_SDXL)
    add_save(g, picture, LARGE, "realvisxl")


def small_sd_tiny_sd(g: Graph) -> None:
    text = "photo of a lighthouse on a cliff at sunset, waves, detailed"
    for y, name in ((0, "small-sd"), (440, "tiny-sd")):
        with g.subgraph(f"Text to picture ({name})", y=y) as face:
            picture = text_to_image(g, face, text, 512, f"{name}/", LCM_SD15)
        add_save(g, picture, (360, 380), name, y)


def style_lora(g: Graph) -> None:
    with g.subgraph("Text to picture in a style (SDXL)") as face:
        load = g.node("VegaLoader", 1, -40, model_name=SDXL, vae="full")
        unstyled = {"model": load["MODEL"], "clip": load["CLIP"]}
        style = g.node("VegaLoraLoader", 2, -40, "Style LoRA", **unstyled, lora_name=PIXEL_ART, strength_model=1.2)
        lora = g.node("VegaLCMLora", 3, -40, model=style["MODEL"], lora_name=LCM_SDXL)
        fast = g.node("VegaAccelerate", 4, -40, model=lora)
        text = prompt(g, 3, 270, style, "pixel, a cute corgi in a flower garden")
        size = add_empty_latent(g, 4, 320, 1024)
        drawn = sampler(g, 5, 60, fast, text, size, steps=8)
        decode = add_decode(g, 6, 60, load, drawn, 480)
        g.group("1. Model and LoRAs", load, style, lora, fast)
        g.group("2. Prompt and size", text, size)
        g.group("3. Draw", drawn, decode)
        face.show(
            prompt=(text, "text"),
            style=(style, "lora_name"),
            strength=(style, "strength_model"),
            **size_widgets(size),
            **sampler_widgets(drawn),
            **model_widgets(load, fast),
        )
    add_save(g, decode, LARGE, "style")


def controlnet(g: Graph) -> None:
    picture, _ = own_picture(g)
    with g.subgraph("ControlNet (RealVisXL, LCM-LoRA)", input_node_offset=120) as face:
        load, fast = few_step_model(g, REALVIS, LCM_SDXL)
        text = prompt(g, 2, 240, load, "photo of a pine forest by a calm lake at dawn, mist, pink sky, detailed")
        scaled = start_size(g, 2, 510, picture, 1.0)
        net = g.node("ControlNetLoader", 3, 640, control_net_name=CANNY)
        # Low, because the example is a small picture made large: its edges are soft.
        edges = g.node("Canny", 2, 690, image=scaled, low_threshold=0.05, high_threshold=0.15)
        conditions = {"positive": text, "negative": text, "control_net": net, "image": edges}
        control = g.node("ControlNetApplyAdvanced", 4, 300, **conditions, strength=0.7, end_percent=0.8)
        sides = g.node("GetImageSize", 3, 820, image=scaled)
        size = g.node("EmptyLatentImage", 4, 780, width=sides["width"], height=sides["height"])
        drawn = sampler(g, 5, 200, fast, control["positive"], size, steps=6)
        decode = add_decode(g, 6, 200, load, drawn, 1010)
        g.group("2. Prompt", text)
        g.group("3. The shape to follow", scaled, net, edges, sides)
        g.group("4. ControlNet and size", control, size)
        g.group("5. Draw", drawn, decode)
        face.show(
            prompt=(text, "text"),
            strength=(control, "strength"),
            low_threshold=(edges, "low_threshold"),
            high_threshold=(edges, "high_threshold"),
            **sampler_widgets(drawn),
            **model_widgets(load, fast),
        )
    add_save(g, decode, COMPARED, "controlnet")
    g.node("PreviewImage", 4, 0, "Edges that it follows", images=edges)


def send_image_api(g: Graph) -> None:
    with g.subgraph("Text to picture (for programs)") as face:
        picture = text_to_image(g, face, "a starry night over the ocean with a boat", NANO_SIDE)
    add_image_output(g, "VegaSendImage", picture, (260, 420), format="jpeg", quality=95)


def recipes_compared(g: Graph) -> None:
    """One base with four few-step LoRAs, whose models go through the sampler as a list."""
    loras = {"LCM": LCM_SDXL, "SDXL-Lightning": LIGHTNING, "Hyper-SD": HYPER_SD, "DMD2": DMD2}
    with g.subgraph("Four few-step LoRAs compared (SDXL)") as face:
        load = g.node("VegaLoader", 1, 0, model_name=SDXL, vae="full")
        made = [
            g.node("VegaLCMLora", 2, 220 * k, name, model=load["MODEL"], lora_name=lora)
            for k, (name, lora) in enumerate(loras.items())
        ]
        listed = g.node("CreateList", 3, 0, "All models", inputs=made)
        fast = g.node("VegaAccelerate", 4, 0, model=listed)
        text = prompt(g, 3, 260, load, "photo of a lighthouse on a cliff at sunset, waves, dramatic clouds, detailed")
        size = add_empty_latent(g, 4, 310, 1024)
        drawn = sampler(g, 5, 60, fast, text, size)
        decode = add_decode(g, 6, 60, load, drawn, 1070)
        scaled, whole = grid(g, 6, 400, decode, list(loras), 5)
        g.group("1. Model and LoRAs", load, *made)
        g.group("2. One after the other", listed, fast)
        g.group("3. Prompt and size", text, size)
        g.group("4. Draw", drawn, decode, scaled)
        names = ("lcm_lora", "lightning_lora", "hyper_sd_lora", "dmd2_lora")
        chosen = {name: (node, "lora_name") for name, node in zip(names, made, strict=True)}
        face.show(
            prompt=(text, "text"), **size_widgets(size), **sampler_widgets(drawn), model=(load, "model_name"), **chosen
        )
    add_save(g, whole, LARGE, "few_step_loras")


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
        scaled = start_size(g, 2, 510, frame["IMAGE"], NANO_MEGAPIXELS)
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
    add_image_output(g, "VegaSendImage", decode, SMALL, format="jpeg", quality=90, metadata=False)


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
        node.width, node.height = width, height


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
