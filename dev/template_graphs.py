"""The graphs of the templates: what is inside each subgraph, what it shows on its face, and what stands beside it."""

from .graph import Graph, Model
from .template_parts import (
    COMPARED,
    LARGE,
    NANO_SIDE,
    OWN_MEGAPIXELS,
    SMALL,
    add_compare,
    add_decode,
    add_empty_latent,
    add_image_output,
    add_save,
    few_step_model,
    grid,
    model_widgets,
    own_picture,
    prompt,
    sampler,
    sampler_widgets,
    size_widgets,
    start_size,
    text_to_image,
    vae_link_route,
    with_and_without,
)

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
        drawn = sampler(g, 4, 60, fast, text, encode, denoise=0.8, seed=6)
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
    picture.node.height = 325  # its note is long, and all is to fit into a small window
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
