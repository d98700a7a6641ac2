"""Writes the templates, workflows/*.json, and the same graphs for the API, workflows/api/*.json, through the real server.

A change made in the browser is lost here: change the graph below or its note in templates.md, run this, look at it in the
browser, then draw its thumbnail (thumbnails.py).
"""

import base64
import json
import re
from pathlib import Path

from . import comfyui
from .host import ROOT
from .workflow_file import Graph, Model, Node, Output

HERE, WORKFLOWS = Path(__file__).parent, ROOT / "workflows"
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
PIXEL_ART = on_hub("nerijs/pixel-art-xl", "loras", "171 MB", "pixel-art-xl.safetensors")
CANNY = on_hub("lllyasviel/sd_control_collection", "controlnet", "0.5 GB", "diffusers_xl_canny_mid.safetensors")
NANO_MEGAPIXELS = 0.02  # 144 x 144, or as many in another shape: between the 128 x 128 and 192 x 192 that it draws well
WORDS = (
    "vega-nano, the small model that comes with the pack, draws landscapes of 128 x 128 pixels. Words it knows: day, "
    "sunset, dawn, night; mountains, snowy mountains, hills, desert, forest, city, sea; summer, autumn, winter; sun, full "
    "moon, crescent moon, stars, clouds; a lake, a house, a boat, a tree, a cactus."
)
INSIDE = "The start picture lies inside this file, so that the template runs as it is."
OWN_PICTURE = (
    "**For your own:** double-click the canvas, add **Load Image**, choose a file, and drag its IMAGE to the input *image* "
    "of **Start size**. The whole picture is taken, in its own shape, made as small or large as the model draws well."
)


def txt2img(g: Graph) -> None:
    drawn, load = text_to_image(g, "a pink dawn over pine trees with a calm lake", 128)
    result(g, drawn, load, "SaveImage", filename_prefix="vega")


def txt2img_1024(g: Graph) -> None:
    text = "a lighthouse on a cliff at sunset, waves, dramatic clouds, highly detailed"
    drawn, load = text_to_image(g, text, 1024, VEGA, VEGA_RT)
    result(g, drawn, load, "SaveImage", filename_prefix="vega")


def img2img(g: Graph) -> None:
    load, fast = few_step_model(g)
    text = prompt(g, 2, 240, load, "a bright day, pine trees with a calm lake, the sun")
    g.group("2. Prompt", text)
    encode = start_latent(g, load)
    drawn = sampler(g, 5, 400, fast, text, encode, seed=7, denoise=0.7)
    decode = g.node("VegaTinyVAEDecode", 6, 400, samples=drawn, vae=along(load, 6, 400, 854, 940))
    save = g.node("SaveImage", 7, 400, images=decode, filename_prefix="vega")
    g.group("4. Draw", drawn)
    g.group("5. Picture", decode, save)


def inpaint(g: Graph) -> None:
    """One picture with its mask as alpha: what scales or cuts the one does so to the other.

    At the end the picture itself lies over what was drawn, but for the mask. The decoder has a loader of its own, as
    otherwise the picture's way to the end would cross the autoencoder's.
    """
    load, fast = few_step_model(g)
    text = prompt(g, 2, 240, load, "a pink dawn over pine trees with a calm lake, the sun, clouds")
    picture = g.node("VegaReceiveImage", 2, 510, "Start picture (inside this file)", image=inside("start.webp"))
    drawn_mask = g.node("VegaReceiveImage", 2, 650, "Mask (inside this file)", image=inside("start_mask.png"))
    mask = g.node("ImageToMask", 3, 650, image=drawn_mask["IMAGE"], channel="red")
    joined = g.node("JoinImageWithAlpha", 4, 510, "Picture and mask", image=picture["IMAGE"], alpha=mask)
    shown = g.node("PreviewImage", 5, 1500, "Picture without what is drawn anew", images=joined)

    # Only "area" keeps the colours under the mask, and zeros zero.
    size = {"upscale_method": "area", "megapixels": NANO_MEGAPIXELS, "resolution_steps": 8}
    scaled = g.node("ImageScaleToTotalPixels", 5, 480, "Start size", image=joined, **size)
    start = g.node("SplitImageWithAlpha", 6, 480, image=scaled)
    # Half the side of what one latent covers: all that the mask touches is drawn anew.
    touched = g.node("GrowMask", 7, 570, "All that the mask touches", mask=start["MASK"], expand=4, tapered_corners=False)
    conditions = {"positive": text, "negative": text, "vae": load["VAE"].via((2, 140), (2, 430), (8, 430))}
    encode = g.node("InpaintModelConditioning", 8, 360, **conditions, pixels=start["IMAGE"], mask=touched)
    drawn = sampler(g, 9, 300, fast, encode["positive"], encode["latent"])
    again = g.node("VegaLoader", 9, 560, "Load Vega (the same model)", model_name=NANO, vae="tiny")
    decode = g.node("VegaTinyVAEDecode", 10, 400, samples=drawn, vae=again["VAE"])

    sides = g.node("GetImageSize", 5, 800, image=joined)  # grows when it has run
    whole = g.node("SplitImageWithAlpha", 5, 1000, "The whole picture", image=joined)
    keep = g.node("ImageToMask", 5, 1090, "What stays", image=joined, channel="alpha")
    feather = g.node("PrimitiveInt", 5, 1310, "Feather", value=4)
    grown = g.node("GrowMask", 6, 1200, mask=keep, expand=feather, tapered_corners=False)
    image = g.node("MaskToImage", 7, 1200, mask=grown)
    blurred = g.node("ImageBlur", 8, 1200, image=image, blur_radius=feather["INT"].via((7, 1340), (8, 1340)), sigma=1.0)
    soft = g.node("ImageToMask", 9, 1200, image=blurred, channel="red")
    # Added, so that what stays whole is exactly 1, whatever the blur rounds to; what is half painted is left as it is.
    stays = g.node("ThresholdMask", 6, 1080, "What stays whole", mask=keep, value=0.99)["MASK"].via((7, 1100), (10, 1100))
    edge = g.node("MaskComposite", 10, 1160, "Soft edge", destination=stays, source=soft, operation="add")
    width, height = sides["width"].via((11, 800)), sides["height"].via((11, 820))
    large = {"upscale_method": "lanczos", "width": width, "height": height, "crop": "disabled"}
    resized = g.node("ImageScale", 11, 400, "Back to its size", image=decode, **large)
    original = {"source": whole["IMAGE"].via((12, 1010)), "mask": edge["MASK"].via((11, 1180), (12, 1030))}
    pasted = g.node("ImageCompositeMasked", 12, 640, "What stays, on top", destination=resized, **original)
    save = g.node("SaveImage", 13, 640, images=pasted, filename_prefix="vega")
    g.group("2. Prompt", text)
    g.group("3. Picture and mask", picture, drawn_mask, mask, joined)
    g.group("4. What stays", shown)
    g.group("5. Start size", scaled, start, touched)
    g.group("6. Draw", encode, drawn, again, decode)
    g.group("7. What stays, as it was", sides, whole, keep, feather, grown, image, blurred, soft, stays.node, edge)
    g.group("8. Picture", resized, pasted, save)


def live_drawing(g: Graph) -> None:
    drawn, load = text_to_image(g, "night, desert, full moon", 128)
    result(g, drawn, load, "VegaSendImage", format="jpeg", quality=95, metadata=False)


def steps_compared(g: Graph) -> None:
    counts = (1, 2, 4, 8)
    load, fast = few_step_model(g)
    text = prompt(g, 2, 240, load, "a red sunset over snowy mountains with a lake")
    size = empty(g, 3, 290, 128)
    numbers = [g.node("PrimitiveInt", 2, 530 + 130 * k, "Steps", value=count) for k, count in enumerate(counts)]
    steps = g.node("CreateList", 3, 690, "All steps", inputs=numbers)
    drawn = sampler(g, 4, 60, fast, text, size, steps=steps)
    decode = g.node("VegaTinyVAEDecode", 5, 60, samples=drawn, vae=along(load, 5, 60, 1070))
    scaled = grid(g, 5, 350, decode, ["1 step", *(f"{count} steps" for count in counts[1:])], 5)
    g.group("2. Prompt and size", text, size)
    g.group("3. Steps to compare", *numbers, steps)
    g.group("4. Draw", drawn, decode, scaled)


def plain_beside_rt(g: Graph) -> None:
    """Two samplers can't share a model, prompts and a size without crossing links: only the prompts are shared."""
    load, fast = few_step_model(g, group="1. Model and LCM-LoRA")
    text = prompt(g, 2, 240, load, "a red sunset over snowy mountains with a lake")
    negative = prompt(g, 2, 460, load, "clouds, night", "Negative prompt")
    size = empty(g, 4, 210, 128)
    rt = sampler(g, 5, 60, fast, text, size, seed=2)
    again = g.node("VegaLoader", 4, 430, "Load Vega (the same model)", model_name=NANO, vae="tiny")
    same = empty(g, 4, 900, 128, "Empty Latent Image (the same size)")
    settings = {"seed": 2, "steps": 25, "cfg": 9.0, "sampler_name": "euler", "scheduler": "normal"}
    conditions = {"positive": text, "negative": negative}
    plain = g.node("KSampler", 5, 800, model=again["MODEL"], **conditions, latent_image=same, **settings)
    both = g.node("CreateList", 6, 400, "Both", inputs=[rt, plain])
    decode = g.node("VegaTinyVAEDecode", 7, 400, samples=both, vae=along(load, 7, 400, 1130))
    scaled = grid(g, 7, 670, decode, ["LCM-LoRA: 4 steps", "plain: 25 steps, CFG 9"], 6)
    g.group("2. Prompts", text, negative)
    g.group("3. With the LCM-LoRA: 4 steps", size, rt)
    g.group("4. Without: 25 steps, CFG 9", again, same, plain)
    g.group("5. Decode", both, decode, scaled)


def realvisxl_lcm(g: Graph) -> None:
    text = "photo of an old fisherman mending a net at the harbour, morning light, detailed"
    drawn, load = text_to_image(g, text, 1024, REALVIS, LCM_SDXL)
    result(g, drawn, load, "SaveImage", filename_prefix="realvisxl")


def small_sd_tiny_sd(g: Graph) -> None:
    text = "photo of a lighthouse on a cliff at sunset, waves, detailed"
    for y, name in ((0, "small-sd"), (720, "tiny-sd")):
        drawn, load = text_to_image(g, text, 512, f"{name}/", LCM_SD15, y, f" ({name})")
        result(g, drawn, load, "SaveImage", y, f" ({name})", filename_prefix=name)


def style_lora(g: Graph) -> None:
    load = g.node("VegaLoader", 1, 0, model_name=SDXL, vae="full")
    unstyled = {"model": load["MODEL"], "clip": load["CLIP"]}
    style = g.node("VegaLoraLoader", 2, 0, "Style LoRA", **unstyled, lora_name=PIXEL_ART, strength_model=1.2)
    lora = g.node("VegaLCMLora", 3, 0, model=style["MODEL"], lora_name=LCM_SDXL)
    fast = g.node("VegaAccelerate", 4, 0, model=lora)
    text = prompt(g, 3, 270, style, "pixel, a cute corgi in a flower garden")
    size = empty(g, 4, 320, 1024)
    drawn = sampler(g, 5, 60, fast, text, size, steps=8)
    g.group("1. Model and LoRAs", load, style, lora, fast)
    g.group("2. Prompt and size", text, size)
    g.group("3. Draw", drawn)
    result(g, drawn, load, "SaveImage", filename_prefix="style")


def controlnet(g: Graph) -> None:
    load, fast = few_step_model(g, REALVIS, LCM_SDXL)
    text = prompt(g, 2, 240, load, "photo of a pine forest by a calm lake at dawn, mist, pink sky, detailed")
    picture, scaled = start_picture(g, 640, 1.0)
    net = g.node("ControlNetLoader", 4, 510, control_net_name=CANNY)
    # Low, because the start picture is a small one made large: its edges are soft.
    edges = g.node("Canny", 4, 640, image=scaled, low_threshold=0.05, high_threshold=0.15)
    conditions = {"positive": text, "negative": text, "control_net": net, "image": edges}
    control = g.node("ControlNetApplyAdvanced", 5, 300, **conditions, strength=0.7, end_percent=0.8)
    shown = g.node("PreviewImage", 5, 560, "Edges", images=edges)
    sides = g.node("GetImageSize", 4, 860, image=scaled)
    size = g.node("EmptyLatentImage", 5, 880, width=sides["width"], height=sides["height"])
    drawn = sampler(g, 6, 200, fast, control["positive"], size, steps=6)
    decode = g.node("VAEDecode", 7, 200, samples=drawn, vae=along(load, 7, 200, 1090))
    save = g.node("SaveImage", 8, 200, images=decode, filename_prefix="controlnet")
    g.group("2. Prompt", text)
    g.group("3. The shape to follow", picture, scaled, net, edges, sides)
    g.group("4. ControlNet and size", control, size, shown)
    g.group("5. Draw", drawn)
    g.group("6. Picture", decode, save)


def send_image_api(g: Graph) -> None:
    drawn, load = text_to_image(g, "a starry night over the ocean with a boat", 128)
    result(g, drawn, load, "VegaSendImage", format="jpeg", quality=95)


TEMPLATES = {
    "vega_txt2img": txt2img,
    "vega_txt2img_1024": txt2img_1024,
    "vega_img2img": img2img,
    "vega_inpaint": inpaint,
    "vega_live_drawing": live_drawing,
    "vega_steps_compared": steps_compared,
    "vega_plain_beside_rt": plain_beside_rt,
    "vega_realvisxl_lcm": realvisxl_lcm,
    "vega_small_sd_tiny_sd": small_sd_tiny_sd,
    "vega_style_lora": style_lora,
    "vega_controlnet": controlnet,
    "vega_send_image_api": send_image_api,
}

# Names of nodes in a template's graph for the API, instead of their numbers in the browser: the host's own example
# (script_examples/websockets_api_example_ws_images.py) takes the pictures of a node of this name.
FOR_PROGRAMS = {"vega_send_image_api": {"7": "save_image_websocket_node"}}


def down(load: Node, *depths: int) -> list[tuple[int, int]]:
    """Points that lead the autoencoder's link down right beside the loader, clear of the other links."""
    return [(2, load.y + 140), *((2, depth) for depth in depths)]


def along(load: Node, column: int, y: int, *depths: int) -> Output:
    """The loader's autoencoder, led below everything to a decoder that is at y in a column."""
    return load["VAE"].via(*down(load, *depths), (column, depths[-1]), (column, y + 110))


def prompt(g: Graph, column: int, y: int, encoder: Node, text: str, title: str = "Prompt") -> Node:
    return g.node("CLIPTextEncode", column, y, title, clip=encoder["CLIP"], text=text)


def empty(g: Graph, column: int, y: int, side: int, title: str | None = None) -> Node:
    return g.node("EmptyLatentImage", column, y, title, width=side, height=side)


def sampler(g: Graph, column: int, y: int, model: Node, positive: Node | Output, latent: Node, **widgets) -> Node:
    given = {"model": model, "positive": positive, "latent_image": latent, "seed": 1, **widgets}
    return g.node("VegaLCMSampler", column, y, **given)


def few_step_model(
    g: Graph, name: str | Model = NANO, lora: str | Model = NANO_LORA, y: int = 0, group: str = "1. Model"
) -> tuple[Node, Node]:
    """(loader, accelerated few-step model). vega-nano has a tiny autoencoder only, the others a full one."""
    load = g.node("VegaLoader", 1, y, model_name=name, vae="tiny" if name == NANO else "full")
    lcm = g.node("VegaLCMLora", 2, y, model=load["MODEL"], lora_name=lora)
    # Its number in the first template, which people's programs may know.
    fast = g.node("VegaAccelerate", 3, y, id=10 if load.id == 1 else None, model=lcm, mode="auto")
    g.group(group, load, lcm, fast)
    return load, fast


def text_to_image(
    g: Graph, text: str, side: int, name: str | Model = NANO, lora: str | Model = NANO_LORA, y: int = 0, remark: str = ""
) -> tuple[Node, Node]:
    """(sampler, loader) of a graph whose top is at y."""
    load, fast = few_step_model(g, name, lora, y, f"1. Model{remark}")
    words = prompt(g, 2, y + 240, load, text)
    size = empty(g, 3, y + 290, side)
    drawn = sampler(g, 4, y + 60, fast, words, size)
    g.group(f"2. Prompt and size{remark}", words, size)
    g.group(f"3. Draw{remark}", drawn)
    return drawn, load


def result(g: Graph, drawn: Node, load: Node, kind: str, y: int = 0, remark: str = "", **widgets) -> None:
    """The picture, decoded by what fits the loader's autoencoder, in a node that saves or sends it."""
    decoder = "VegaTinyVAEDecode" if load.inputs["vae"] == "tiny" else "VAEDecode"
    column = drawn.column + 1
    decode = g.node(decoder, column, y + 60, samples=drawn, vae=along(load, column, y + 60, y + 460))
    shown = g.node(kind, column + 1, y + 60, images=decode, **widgets)
    g.group(f"4. Picture{remark}", decode, shown)


def inside(name: str) -> str:
    """A file of this folder in base64, for Receive Image: the host has no place for a picture of a pack's."""
    return base64.b64encode((HERE / name).read_bytes()).decode()


def start_picture(g: Graph, y: int, megapixels: float) -> tuple[Node, Node]:
    """A picture inside the workflow itself, and the whole of it at a size that the model draws well."""
    picture = g.node("VegaReceiveImage", 2, y, "Start picture (inside this file)", image=inside("start.webp"))
    size = {"upscale_method": "lanczos", "megapixels": megapixels, "resolution_steps": 8}
    return picture, g.node("ImageScaleToTotalPixels", 3, y, "Start size", image=picture["IMAGE"], **size)


def start_latent(g: Graph, load: Node) -> Node:
    """The start picture, shown and encoded, in a group of its own; gives the node that encodes it."""
    picture, scaled = start_picture(g, 510, NANO_MEGAPIXELS)
    shown = g.node("PreviewImage", 4, 510, "Start", images=scaled)
    encode = g.node("VAEEncode", 4, 820, pixels=scaled, vae=load["VAE"].via(*down(load, 854)))
    g.group("3. Start picture", picture, scaled, shown, encode)
    return encode


def grid(g: Graph, column: int, y: int, pictures: Node, labels: list[str], number: int) -> Node:
    """A list's pictures in a grid two wide, a label on each; gives the node that makes them large enough for text."""
    top, side = pictures.y, 384
    texts = [g.node("PrimitiveString", column, y + 110 * k, "Label", value=label) for k, label in enumerate(labels)]
    listed = g.node("CreateList", column + 1, y + 45 * (len(labels) - 1), "All labels", inputs=texts)
    size = {"width": side, "height": side, "upscale_method": "lanczos", "crop": "center"}
    scaled = g.node("ImageScale", column + 1, top, "Size in the grid", image=pictures, **size)
    labelled = g.node("TextOverlay", column + 2, top, images=scaled, text=listed, font_size=6.0)
    whole = g.node("ImageGrid", column + 3, top, images=labelled, columns=2, cell_width=side, cell_height=side)
    save = g.node("SaveImage", column + 4, top, images=whole, filename_prefix="vega_compared")
    g.group(f"{number}. Labels", *texts, listed)
    g.group(f"{number + 1}. Grid", labelled, whole, save)
    return scaled


def models(g: Graph) -> list[Model]:
    """What a graph needs that the pack doesn't bring."""
    given = [value for node in g.nodes.values() for value in node.inputs.values()]
    return list(dict.fromkeys(value for value in given if isinstance(value, Model)))


def files(g: Graph) -> str:
    """Which files the user needs for a graph, and where; a folder, which ComfyUI can't offer, is the note's own matter."""
    needed = models(g)
    folders = any(str(node.inputs.get("model_name", "")).endswith("/") for node in g.nodes.values())
    offered = "Of single files ComfyUI lists" if folders else "ComfyUI lists"
    lines = [f"{offered} what is missing and offers the downloads. Press **R** when the files are in their folders."]
    for directory in dict.fromkeys(model.directory for model in needed):
        listed = [f"**models/{directory}**"]
        for model in needed:
            if model.directory == directory:
                downloaded = model.url.rpartition("/")[2]
                rename = "" if downloaded == model.name else f" (saved by browsers as {downloaded}: rename it)"
                listed.append(f"- [{model.name}]({model.url}), {model.size}{rename}")
        lines.append("\n".join(listed))
    return "\n\n".join(lines)


def tiny(name: str) -> str:
    link = f"[{name}]({HUB}/madebyollin/{name})"
    return (
        f"Decoding is faster with {link}: put its encoder and its decoder into models/vae_approx, and set *vae* to **tiny**."
    )


def notes() -> dict[str, str]:
    """The notes in templates.md, by template; a line that begins no list, heading or paragraph goes on with the last."""
    text = (HERE / "templates.md").read_text(encoding="utf-8")
    sections = re.findall(r"^# (\w+)\n(.*?)(?=^# |\Z)", text, re.DOTALL | re.MULTILINE)
    return {name: re.sub(r"(?<=[^\n])\n(?=[^\n#-])(?!\d\. )", " ", section.strip()) for name, section in sections}


def graphs(info: dict) -> dict[str, Graph]:
    """info: the server's answer to GET /object_info."""
    found = {name: Graph(name, info) for name in TEMPLATES}
    for name, graph in found.items():
        TEMPLATES[name](graph)
    return found


def written(info: dict) -> dict[Path, str]:
    """The text of every file."""
    found, told = {}, notes()
    for name, graph in graphs(info).items():
        filled = {"words": WORDS, "inside": INSIDE, "own_picture": OWN_PICTURE, "files": files(graph)}
        graph.note(told[name].format(**filled, taesdxl=tiny("taesdxl"), taesd=tiny("taesd")))
        prompt = {FOR_PROGRAMS.get(name, {}).get(id, id): node for id, node in graph.prompt().items()}
        nodes = ",\n".join(f"  {json.dumps(id)}: {json.dumps(node)}" for id, node in prompt.items())
        found[WORKFLOWS / f"{name}.json"] = json.dumps(graph.saved(), indent=1) + "\n"
        found[WORKFLOWS / "api" / f"{name}.json"] = f"{{\n{nodes}\n}}\n"
    return found


def main() -> None:
    with comfyui.serve(ROOT / ".comfyui") as server:
        for path, text in written(server.get("/object_info").json()).items():
            path.write_text(text, encoding="utf-8")
            print(path)


if __name__ == "__main__":
    main()
