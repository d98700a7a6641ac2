"""The nodes that people see, by their schemas: ComfyUI shows the others only to those who turn its developer mode on."""

import asyncio
import re

from vega_pack.extension import VegaExtension

NODES = [s for n in asyncio.run(VegaExtension().get_node_list()) if not (s := n.define_schema()).is_dev_only]


def choices(schema) -> set[str]:
    """The words that one chooses from in a node's lists; names of files are none."""
    options = {option for slot in schema.inputs for option in getattr(slot, "options", None) or []}
    return {option for option in options if re.fullmatch(r"[a-z ]+", option)}
