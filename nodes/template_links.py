"""Links to the templates by the names that they had first, as in ?template=vega_txt2img&source=<folder of the pack>."""

from pathlib import Path

from aiohttp import web

PACK_DIR = Path(__file__).resolve().parents[1]
OLD_NAMES = {
    "vega_txt2img": "01 Text to picture",
    "vega_txt2img_1024": "02 Text to picture - Vega RT, 1024 pixels",
    "vega_img2img": "03 Picture to picture",
    "vega_inpaint": "04 Inpaint - paint over a part, draw it anew",
    "vega_live_drawing": "05 Live prompt - the picture follows the typing",
    "vega_steps_compared": "06 1, 2, 4 and 8 steps compared",
    "vega_plain_beside_rt": "07 With the LCM-LoRA and without",
    "vega_realvisxl_lcm": "08 RealVisXL with LCM-LoRA",
    "vega_small_sd_tiny_sd": "09 small-sd and tiny-sd",
    "vega_style_lora": "10 A style LoRA in few steps",
    "vega_controlnet": "11 ControlNet in few steps",
    "vega_send_image_api": "12 For programs - Send Image",
    "vega_recipes_compared": "13 Four few-step LoRAs compared",
    "vega_train_lora": "14 Train your own LoRA",
    "vega_live_paint": "15 Live paint - the picture follows the brush",
    "vega_live_webcam": "16 Live webcam",
    "vega_train_lcm_lora": "17 Distil your own LCM-LoRA",
}


def add_routes(routes: web.RouteTableDef) -> None:
    """The frontend fetches a template from where the host serves the folder; these stand beside that, with exact paths."""
    for name, title in OLD_NAMES.items():
        handler = file_handler(PACK_DIR / "workflows" / f"{title}.json")
        routes.get(f"/workflow_templates/{PACK_DIR.name}/{name}.json")(handler)


def file_handler(path: Path):
    async def handle(_: web.Request) -> web.FileResponse:
        return web.FileResponse(path)

    return handle
