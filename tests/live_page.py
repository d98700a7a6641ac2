"""The widget of Live Image in ComfyUI's page: where its parts are, and what they show."""

from workflow_files import template

from dev import browser

LIVE, CANVAS, IMAGE = ".vega-live button.live", ".vega-live canvas", ".vega-live img"
STATUS, NUMBERS = ".vega-live .status", ".vega-live .numbers"


def load(page, name: str) -> None:
    browser.load_workflow(page, template(name))
    browser.center_node(page, "VegaLiveImage")
    page.locator(CANVAS).wait_for()


def frame(page) -> int:
    """The number of the frame that the picture is of, 0 where there is none."""
    return int(page.locator(IMAGE).get_attribute("data-frame") or 0)


def wait_for_frame(page, number: int) -> None:
    browser.poll_page(page, f"() => Number(document.querySelector('{IMAGE}').dataset.frame ?? 0) >= {number}")


def picture(page) -> list[int]:
    """The pixels of the picture, once it is decoded."""
    return page.evaluate(
        f"""async () => {{
            const image = document.querySelector('{IMAGE}')
            // A newer picture that comes meanwhile ends the decoding of this one.
            for (let tries = 0; !(await image.decode().then(() => true, () => false)); tries++) {{
                if (tries === 100) throw new Error('no picture of a hundred could be decoded')
                await new Promise(requestAnimationFrame)
            }}
            const canvas = document.createElement('canvas')
            canvas.width = canvas.height = 192
            canvas.getContext('2d').drawImage(image, 0, 0, 192, 192)
            return [...canvas.getContext('2d').getImageData(0, 0, 192, 192).data]
        }}"""
    )


def pixel(page, x: float, y: float) -> list[int]:
    """Of the painting, at a part of its width and height."""
    return page.evaluate(
        f"""([x, y]) => {{
            const canvas = document.querySelector('{CANVAS}')
            return [...canvas.getContext('2d').getImageData(x * canvas.width, y * canvas.height, 1, 1).data].slice(0, 3)
        }}""",
        [x, y],
    )


def colour(page, value: str) -> None:
    page.locator(".vega-live input[type=color]").fill(value)


def box_middle(locator) -> tuple[float, float]:
    box = locator.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
