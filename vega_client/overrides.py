"""Other values for inputs of a graph, named as people name them."""

from .workflow.shapes import check


def override(graph: dict, changes: dict) -> dict:
    """The API-format graph with changes: "<node>.<input>" -> value, where <node> is an id, a title or a class.

    ValueError for a name that fits no input, or inputs of several nodes. The graph itself stays as it was.
    """
    if not isinstance(changes, dict):
        raise ValueError('overrides must be a dict, such as {"KSampler.seed": 5}.')
    for id, node in graph.items():
        check(node, {"class_type": str, "inputs?": dict}, f"Node {id}")
    graph = {id: {**node, "inputs": dict(node.get("inputs") or {})} for id, node in graph.items()}
    for name, value in changes.items():
        target, _, field = str(name).rpartition(".")
        graph[found(graph, target, field, name)]["inputs"][field] = value
    return graph


def found(graph: dict, target: str, field: str, name: str) -> str:
    if target in graph and field in graph[target]["inputs"]:
        return target
    for called in (lambda node: node.get("_meta", {}).get("title"), lambda node: node["class_type"]):
        fitting = [id for id, node in graph.items() if called(node) == target and field in node["inputs"]]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            raise ValueError(f"{name} fits the nodes {', '.join(fitting)}: name one by its id, as in {fitting[0]}.{field}.")
    there = [f"{id}.{field}" for id, node in graph.items() for field in node["inputs"] if not is_link(node["inputs"][field])]
    raise ValueError(f"No input is called {name}; there are {', '.join(there)}.")


def is_link(value) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)
