"""Other values for inputs of a graph, named as people name them."""

from .workflow.shapes import check_shape


def apply_overrides(graph: dict, overrides: dict) -> dict:
    """The API-format graph with overrides: "<node>.<input>" -> value, where <node> is an id, a title or a class.

    ValueError for a name that fits no input, or inputs of several nodes. The graph itself stays as it was.
    """
    if not isinstance(overrides, dict):
        raise ValueError('overrides must be a dict, such as {"KSampler.seed": 5}.')
    for id, node in graph.items():
        check_shape(node, {"class_type": str, "inputs?": dict}, f"Node {id}")
    graph = {id: {**node, "inputs": dict(node.get("inputs") or {})} for id, node in graph.items()}
    for name, value in overrides.items():
        target, _, field = str(name).rpartition(".")
        graph[find_node(graph, target, field, name)]["inputs"][field] = value
    return graph


def find_node(graph: dict, target: str, field: str, name: str) -> str:
    """The id of the one node that is called target and has the input."""
    if target in graph and field in graph[target]["inputs"]:
        return target
    for node_name in (lambda node: node.get("_meta", {}).get("title"), lambda node: node["class_type"]):
        ids = [id for id, node in graph.items() if node_name(node) == target and field in node["inputs"]]
        if len(ids) == 1:
            return ids[0]
        if ids:
            raise ValueError(f"{name} fits the nodes {', '.join(ids)}: name one by its id, as in {ids[0]}.{field}.")
    inputs = ((id, field, value) for id, node in graph.items() for field, value in node["inputs"].items())
    names = [f"{id}.{field}" for id, field, value in inputs if not is_link(value)]
    raise ValueError(f"No input is called {name}; there are {', '.join(names)}.")


def is_link(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)
