"""A workflow as it is given: a path, the JSON's text, or what that holds."""

import json
import os
from pathlib import Path

LEADING_CHARACTERS = "\ufeff \t\r\n"  # what may stand before JSON: some editors' byte order mark, and white space


class WorkflowFileNotFoundError(FileNotFoundError, ValueError):
    """Nothing is there: what Python says of such a path, and what the client says of anything that is no workflow."""


def read_workflow(workflow: dict | str | Path) -> dict:
    """What the JSON holds; ValueError or OSError, in one sentence with the file's name, where it can't be read."""
    if isinstance(workflow, dict):
        return workflow
    if not isinstance(workflow, (str, os.PathLike)):
        raise ValueError(f"The workflow is a {type(workflow).__name__}: give a file's path, its JSON as text, or a dict.")
    if isinstance(workflow, str) and workflow.lstrip(LEADING_CHARACTERS).startswith("{"):
        return parse_workflow(workflow, "The text")
    path, name = Path(workflow), shorten(str(workflow))
    if workflow == "":  # which Path takes for the folder here
        raise WorkflowFileNotFoundError(f"{name} is neither a file nor the JSON of a workflow.")
    return parse_workflow(read_text(path, name), path.name)


def read_text(path: Path, name: str) -> str:
    """The text of a file in UTF-8, or in what its byte order mark says: Windows PowerShell's > writes UTF-16."""
    if os.path.isdir(path):
        raise IsADirectoryError(f"{name} is a folder: give the file of a workflow.")
    try:
        data = path.read_bytes()
    except PermissionError as error:
        raise PermissionError(f"{name} can't be read: {error.strerror}.") from None
    except (OSError, ValueError):  # ValueError: a zero byte
        raise WorkflowFileNotFoundError(f"{name} is neither a file nor the JSON of a workflow.") from None
    try:
        return data.decode(json.detect_encoding(data))
    except UnicodeDecodeError:
        raise ValueError(f"{path.name} is no text in UTF-8: give the workflow's JSON as the browser saves it.") from None


def parse_workflow(text: str, name: str) -> dict:
    """The object that JSON holds."""
    text = text.strip(LEADING_CHARACTERS)
    if not text:
        raise ValueError(f"{name} is empty: there is no workflow in it.")

    def reject_constant(constant: str) -> None:
        raise ValueError(f"{name} holds {constant}, which is no number of JSON's.")

    try:
        workflow = json.loads(text, parse_constant=reject_constant)
    except json.JSONDecodeError as error:
        position = f"{error.msg} at line {error.lineno}, column {error.colno}"
        raise ValueError(f"{name} is no JSON: {position}.") from None
    except RecursionError:
        raise ValueError(f"{name} is no workflow: its JSON is nested too deep.") from None
    if not isinstance(workflow, dict):
        raise ValueError(f"{name} is no workflow: its JSON holds no object.")
    return workflow


def shorten(text: str) -> str:
    """With the end, where a path has the file's name."""
    return repr(text if len(text) <= 100 else f"{text[:40]}...{text[-60:]}")
