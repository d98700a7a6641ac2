"""Notes for the faces of nodes in ComfyUI's page: what a node did, and what would give a wrong picture.

They go to the page alone, as a websocket event of their own. A node's `ui` output would stand in /history and among the
outputs that programs get, in front of their pictures; and core's nodes, such as CLIP Text Encode, can't be given one.
What was said of a node is remembered by all that goes into it, so that the page can ask for it where the host has the node
in its cache and does not run it: again, in another tab, after a reload.
"""

import hashlib
import json
from collections import OrderedDict
from typing import NamedTuple

from aiohttp import web
from comfy_execution.graph_utils import is_link
from comfy_execution.utils import get_executing_context
from server import PromptServer

from ..images.delivery import is_browser

EVENT = "vega.note"
ROUTE = "/vega/notes/{prompt_id}"  # answers {node id: {"type": ..., "notes": [...]}}
MAX_STORED_NOTES = 1000  # a few hundred bytes each
LONG_TEXT_CHARACTERS = 1000  # characters
# Of the notes those on these nodes alone depend on seeds, and templates have a new one for each run.
SEED_INPUTS, SEED_DEPENDENT_TYPES = ("seed", "noise_seed"), ("VegaTinyVAEDecode",)
stored_notes: OrderedDict[tuple[str, str], list[dict]] = OrderedDict()  # (class_type, signature) -> notes


class Note(NamedTuple):
    """key: a sentence in web/js/note_texts.js; values: what stands in its braces; is_warning: or information."""

    key: str
    values: dict
    is_warning: bool = False


def lora_note(modules: int, strength: float, modules_in_file: int | None = None) -> Note:
    """Of a LoRA: on how many of its modules; at strength 0 on none."""
    if not strength:
        return Note("strengthZero", {})
    return Note("applied", {"count": modules, "total": modules_in_file or modules, "strength": str(round(strength, 2))})


def send_notes(*notes: Note) -> None:
    """Puts these on the node that runs now, in place of the last ones; a page may ask for them later."""
    if (running := running_prompt()) is None:
        return
    prompt, node_id = running
    if node_id in prompt:  # else another node made it while running
        store_notes(prompt[node_id]["class_type"], signature(prompt, node_id), to_dicts(notes))
        send_event(prompt, node_id, notes)


def send_notes_upstream(class_type: str, note: Note) -> None:
    """The same for the nearest node of a type that the running one gets something from."""
    if (running := running_prompt()) is None or not is_watched():
        return
    prompt, node_id = running
    if node_id := find_upstream(prompt, node_id, class_type):
        store_notes(class_type, signature(prompt, node_id), to_dicts([note]))
        send_event(prompt, node_id, [note])


def running_prompt() -> tuple[dict, str] | None:
    """The graph that runs, by node id, and the id of the node; None where no server runs it."""
    if (context := get_executing_context()) is None:  # a node that is called by a program, without the host's server
        return None
    running = list(PromptServer.instance.prompt_queue.currently_running.values())
    return next(((prompt, context.node_id) for _, id, prompt, *_ in running if id == context.prompt_id), None)


def is_watched() -> bool:
    """Whether the prompt runs for a page."""
    return is_browser(PromptServer.instance, PromptServer.instance.client_id)


def send_event(prompt: dict, node_id: str, notes: list[Note]) -> None:
    if not is_watched():
        return
    server, prompt_id = PromptServer.instance, get_executing_context().prompt_id
    note = {"prompt_id": prompt_id, "node": node_id, "type": prompt[node_id]["class_type"], "notes": to_dicts(notes)}
    server.send_sync(EVENT, note, server.client_id)


def to_dicts(notes: list[Note]) -> list[dict]:
    return [note._asdict() for note in notes]


def store_notes(class_type: str, signature: str, notes: list[dict]) -> None:
    """In place of what was said of the same before; nothing needs no place."""
    if not notes:
        stored_notes.pop((class_type, signature), None)
        return
    stored_notes[class_type, signature] = notes
    stored_notes.move_to_end((class_type, signature))
    if len(stored_notes) > MAX_STORED_NOTES:
        stored_notes.popitem(last=False)


def signature(prompt: dict, node_id: str) -> str:
    """What is the same for a node of the same type into which the same goes, other nodes' work included, whatever its id."""
    numbers, waiting = {node_id: 0}, [node_id]
    left_out = () if prompt[node_id]["class_type"] in SEED_DEPENDENT_TYPES else SEED_INPUTS
    rows = []
    for id in waiting:  # which grows meanwhile
        node, inputs = prompt.get(id, {"class_type": None, "inputs": {}}), {}
        for name, value in sorted(node["inputs"].items()):
            if is_link(value):
                if value[0] not in numbers:
                    waiting.append(value[0])
                inputs[name] = [numbers.setdefault(value[0], len(numbers)), value[1]]
            elif name not in left_out:
                # A picture within a prompt has megabytes, of which Python keeps the hash.
                inputs[name] = hash(value) if isinstance(value, str) and len(value) > LONG_TEXT_CHARACTERS else value
        rows.append([node["class_type"], inputs])
    return hashlib.sha256(json.dumps(rows, sort_keys=True, default=str).encode()).hexdigest()


def find_upstream(prompt: dict, node_id: str, class_type: str) -> str | None:
    """The nearest node of the type, by the number of links."""
    seen, level = set(), [node_id]
    while level := [id for id in dict.fromkeys(level) if id in prompt and id not in seen]:
        seen.update(level)
        level = [value[0] for id in level for value in prompt[id]["inputs"].values() if is_link(value)]
        if found := next((id for id in level if prompt.get(id, {}).get("class_type") == class_type), None):
            return found
    return None


def add_route(routes: web.RouteTableDef) -> None:
    routes.get(ROUTE)(get_notes)


async def get_notes(request: web.Request) -> web.Response:
    """What was said of the nodes of a prompt that runs or has run, in this run or in one before with the same inputs."""
    prompt_id, queue = request.match_info["prompt_id"], PromptServer.instance.prompt_queue
    done = queue.get_history(prompt_id, map_function=lambda entry: entry["prompt"])  # without a copy of graph and outputs
    items = [*queue.currently_running.values(), *done.values()]
    prompt = next((prompt for _, id, prompt, *_ in items if id == prompt_id), {})
    types = {class_type for class_type, _ in list(stored_notes)}  # a signature takes a while in a large graph
    found = {}
    for node_id, node in prompt.items():
        class_type = node["class_type"]
        if class_type in types and (notes := stored_notes.get((class_type, signature(prompt, node_id)))) is not None:
            found[node_id] = {"type": class_type, "notes": notes}
    return web.json_response(found)
