"""Placeholder until the converter is merged."""


def is_api(workflow: dict) -> bool:
    return all(isinstance(node, dict) and "class_type" in node for node in workflow.values())


def to_api(workflow: dict, object_info: dict) -> dict:
    raise ValueError("UI workflows are not converted yet.")
