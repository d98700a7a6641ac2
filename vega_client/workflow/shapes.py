"""What a file must have to be read at all."""

# A question mark is at what may be missing.
INPUTS_SHAPE = [{"name": str, "link?": int, "linkIds?": [int], "widget?": {"name": str}}]
OUTPUTS_SHAPE = [{"links?": [int], "linkIds?": [int]}]
NODE_SHAPE = {"id": int | str, "type": str, "title?": str, "mode?": int, "properties?": dict, "widgets_values?": list | dict}
NODE_SHAPE |= {"inputs?": INPUTS_SHAPE, "outputs?": OUTPUTS_SHAPE}
WORKFLOW_SHAPE: dict = {"nodes": [NODE_SHAPE], "links?": list, "inputs?": INPUTS_SHAPE, "outputs?": OUTPUTS_SHAPE}
WORKFLOW_SHAPE |= {"last_node_id?": int, "state?": {"lastNodeId?": int}}
SUBGRAPH_SHAPE = WORKFLOW_SHAPE | {"id": str}
SUBGRAPH_SHAPE["definitions?"] = WORKFLOW_SHAPE["definitions?"] = {"subgraphs?": [SUBGRAPH_SHAPE]}
LINK_SHAPE = {"id": int, "origin_id": int | str, "origin_slot": int, "target_id": int | str}


def check_shape(value: object, shape: object, where: str) -> None:
    """ValueError that names the place where a value isn't of the shape: a type, a list of one, or a dict of them."""
    if not isinstance(value, type(shape) if isinstance(shape, dict | list) else shape):
        raise ValueError(f"{where} is not what ComfyUI saves there.")
    if isinstance(shape, list):
        for k, item in enumerate(value):
            check_shape(item, shape[0], f"{where}[{k}]")
    for key, inner in shape.items() if isinstance(shape, dict) else ():
        name = key.removesuffix("?")
        if value.get(name) is not None:
            check_shape(value[name], inner, f"{where}.{name}")
        elif name == key:
            raise ValueError(f"{where} has no {name}.")
