"""A graph in a few lines of Python, some of its nodes inside subgraphs, and the prompt that it is in ComfyUI's API."""

import heapq
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from vega_client.workflow import definitions
from vega_client.workflow.definitions import AUTOGROW, MATCH_TYPE, is_widget

SLOT_HEIGHT, WIDGET_HEIGHT, TITLE_HEIGHT = 20, 24, 30  # heights that the browser draws
PROMPT_ROWS = 6  # of WIDGET, for a text on a subgraph's face
# Width, and the height of nodes that show text or a picture, or need more with Nodes 2.0 than in the classic renderer, as
# some of ours do, whose badge has a row of its own there; the others' follows from their slots and widgets.
SIZES = {
    "CLIPTextEncode": (400, 150),
    "PreviewImage": (300, 250),
    "MaskPreview": (300, 250),
    "LoadImage": (340, 350),
    "SaveImage": (560, 600),
    "ImageCompare": (340, 400),
    "VegaSendImage": (560, 690),
    "VegaTrainLora": (400, 700),
    "VegaTrainLCMLora": (400, 730),
    "VegaLiveImage": (560, 500),
    "TextOverlay": (280, 280),
    "PrimitiveInt": (220, 0),
    "PrimitiveString": (220, 0),
    "CreateList": (220, 0),
    "VAEDecode": (240, 0),
    "VegaTinyVAEDecode": (240, 80),
    "VegaLoader": (300, 160),
    "VegaLCMLora": (300, 170),
    "VegaLoraLoader": (300, 190),
    "GetImageSize": (220, 0),
    "JoinImageWithAlpha": (240, 0),
    "SplitImageWithAlpha": (240, 0),
    "ImageToMask": (240, 0),
    "MaskToImage": (240, 0),
    "MaskComposite": (240, 0),
    "GrowMask": (240, 0),
    "ThresholdMask": (240, 0),
    "ImageBlur": (240, 0),
}


class Model(NamedTuple):
    """A file that the user downloads; a loader that has one selected carries what ComfyUI needs to offer the download."""

    name: str
    url: str
    directory: str
    size: str


class Output(NamedTuple):
    node: "Node"
    slot: int
    route: tuple[tuple[int, int], ...] = ()  # (column, y): points in the gap before a column that the link goes through

    def via(self, *points: tuple[int, int]) -> "Output":
        return self._replace(route=points)

    @property
    def name(self) -> str:
        return self.node.definition["output_name"][self.slot]

    @property
    def type(self) -> str:
        kind = self.node.definition["output"][self.slot]
        if kind != MATCH_TYPE:
            return kind
        return next(source.type for _, _, source in self.node.sockets() if source)


class InputSpec(NamedTuple):
    name: str
    kind: str
    options: dict
    is_optional: bool
    is_widget: bool


def input_specs(definition: dict) -> list[InputSpec]:
    """The inputs of a definition in /object_info, in the order in which their values are saved."""
    optional = definition["input"].get("optional", {})
    # What draws the slider of a comparison has no value.
    given = [one for one in definitions.input_specs(definition) if one[1] != "IMAGECOMPARE"]
    return [InputSpec(name, kind, options, name in optional, is_widget(kind, options)) for name, kind, options in given]


class Node:
    """control_after_generate: what the browser does to the seed when the graph has run."""

    def __init__(
        self,
        id: int,
        kind: str,
        column: int,
        y: int,
        title: str | None,
        definition: dict,
        inputs: dict,
        control_after_generate: str,
    ):
        self.id, self.kind, self.column, self.y, self.title = id, kind, column, y, title
        self.control_after_generate = control_after_generate
        self.definition, self.inputs = definition, inputs
        self.properties: dict[str, dict] = {}  # beside those that every node has
        self.specs = input_specs(definition)
        unknown = inputs.keys() - {spec.name for spec in self.specs}
        if unknown:
            raise ValueError(f"{kind} has no input {', '.join(sorted(unknown))}.")
        width, height = SIZES.get(kind, (300, 0))
        self.width, self.height = width, height or self.min_height()

    def __getitem__(self, name: str) -> Output:
        return Output(self, self.definition["output_name"].index(name))

    def min_height(self) -> int:
        """What litegraph needs for the slots and the widgets (LGraphNode.computeSize), rounded up."""
        widgets = sum(1 + bool(s.options.get("control_after_generate")) for s in self.specs if s.is_widget)
        growing = any(spec.kind == AUTOGROW for spec in self.specs)  # a second free socket is there while the file is opened
        rows = max(len(list(self.sockets())) + growing, len(self.definition["output"]), 1)
        return math.ceil((SLOT_HEIGHT * rows + (WIDGET_HEIGHT * widgets + 8 if widgets else 0) + 6) / 10) * 10

    def sockets(self) -> Iterator[tuple[InputSpec, str, Output | None]]:
        """(spec, name, what is connected) of the inputs that are no widgets; growing ones end with a free socket."""
        for spec in self.specs:
            if spec.kind == AUTOGROW:
                given = self.inputs[spec.name]
                for k, output in enumerate([*given, None]):
                    yield spec, f"{spec.name}.{spec.options['template']['prefix']}{k}", output
            elif not spec.is_widget:
                yield spec, spec.name, self.inputs.get(spec.name)

    def spec(self, name: str) -> InputSpec:
        return next(spec for spec in self.specs if spec.name == name)

    def links(self) -> Iterator[tuple[str, Output]]:
        """(name, what is connected) in the order of the definition, as a prompt has it."""
        sockets = {name: output for _, name, output in self.sockets()}
        widgets = {s.name: self.inputs.get(s.name) for s in self.specs if s.is_widget}
        for name, output in {**sockets, **widgets}.items():
            if isinstance(output, Output):
                yield name, output

    def values(self) -> list:
        saved = []
        for spec in self.specs:
            if spec.is_widget:
                saved.append(self.value(spec))
                if spec.options.get("control_after_generate"):
                    saved.append(self.control_after_generate)
                if spec.options.get("image_upload"):
                    saved.append("image")  # its button's
        return saved

    def value(self, spec: InputSpec):
        """What a widget shows; where it is connected that is the default, or nothing in a list, which depends on files."""
        given = self.inputs.get(spec.name)
        if isinstance(given, Output) and spec.kind == "COMBO":
            return ""
        if given is None or isinstance(given, Output):
            return definitions.default_value(spec.kind, spec.options)
        return given.name if isinstance(given, Model) else given


class Subgraph:
    """Nodes that are one node in the browser, with some of their widgets on its face."""

    def __init__(self, id: int, name: str, column: int, y: int, width: int, input_node_offset: int):
        self.id, self.name, self.column, self.y = id, name, column, y
        self.width, self.input_node_offset = width, input_node_offset
        self.face: dict[str, list[tuple[Node, str]]] = {}  # name -> nodes inside, and the widget of each

    def show(self, **widgets: tuple[Node, str] | list[tuple[Node, str]]) -> None:
        """One widget on the face for one inside, or for several that are to be the same."""
        self.face |= {name: inside if isinstance(inside, list) else [inside] for name, inside in widgets.items()}

    @property
    def height(self) -> int:
        """What its widgets need, and a text that can be read."""
        kinds = [node.spec(widget).kind for ((node, widget), *_) in self.face.values()]
        rows = sum(PROMPT_ROWS if kind == "STRING" else 1 for kind in kinds)
        return math.ceil((3 * SLOT_HEIGHT + WIDGET_HEIGHT * rows + 14) / 10) * 10


def to_output(value):
    if isinstance(value, list):
        return [to_output(node) for node in value]
    if not isinstance(value, Node):
        return value
    (_,) = value.definition["output"]
    return Output(value, 0)


class Graph:
    def __init__(self, name: str, info: dict, is_for_programs: bool = False):
        """info: the server's answer to GET /object_info. A graph for programs has its pictures inside."""
        self.name, self.info, self.is_for_programs = name, info, is_for_programs
        self.nodes: dict[int, Node] = {}
        self.subgraphs: list[Subgraph] = []
        self.inside: dict[int, Subgraph] = {}  # id of a node -> where it is; the others are at the top
        self.notes: list[tuple[int, int, int, int, int, str]] = []  # id, column, y, width, height, text
        self.groups: list[tuple[str, tuple[Node, ...]]] = []
        self._open: Subgraph | None = None

    def free_id(self) -> int:
        taken = {*self.nodes, *(id for id, *_ in self.notes)}
        return next(id for id in range(1, len(taken) + 2) if id not in taken)

    def node(
        self,
        kind: str,
        column: int,
        y: int,
        title: str | None = None,
        /,
        id: int | None = None,
        control_after_generate="fixed",
        **inputs,
    ) -> Node:
        """inputs: a widget's value or Model; another node, for its only output; an output; for what grows a list of them."""
        given = {name: to_output(value) for name, value in inputs.items()}
        node = Node(id or self.free_id(), kind, column, y, title, self.info[kind], given, control_after_generate)
        self.nodes[node.id] = node
        if self._open:
            self.inside[node.id] = self._open
        return node

    @contextmanager
    def subgraph(
        self, name: str, column: int = 2, y: int = 0, width: int = 380, input_node_offset: int = 60
    ) -> Iterator[Subgraph]:
        """Nodes made meanwhile are inside. Its id is above every node's, so that those stay as they are for programs.

        input_node_offset: how far its inputs begin below its highest node's top, so that no link crosses a group's name.
        """
        subgraph = Subgraph(101 + len(self.subgraphs), name, column, y, width, input_node_offset)
        self.subgraphs.append(subgraph)
        self._open = subgraph
        yield subgraph
        self._open = None

    def note(self, column: int, y: int, width: int, height: int, text: str) -> None:
        self.notes.append((self.free_id(), column, y, width, height, text))

    def group(self, title: str, *nodes: Node) -> None:
        self.groups.append((title, nodes))

    def order(self) -> dict[int, int]:
        """A place for each node after all that it takes from."""
        waiting = {id: {output.node.id for _, output in node.links()} for id, node in self.nodes.items()}
        ready = [id for id, sources in waiting.items() if not sources]
        heapq.heapify(ready)
        place: dict[int, int] = {}
        while ready:
            place[done := heapq.heappop(ready)] = len(place)
            for id, sources in waiting.items():
                if done in sources:
                    sources.remove(done)
                    if not sources:
                        heapq.heappush(ready, id)
        return place

    def prompt(self) -> dict:
        """What POST /prompt takes; subgraphs are only the browser's."""
        prompt = {}
        for id, node in sorted(self.nodes.items()):
            linked = {name: [str(output.node.id), output.slot] for name, output in node.links()}
            inputs = {}
            for spec in node.specs:
                if spec.kind == AUTOGROW:
                    inputs |= {name: source for name, source in linked.items() if name.startswith(f"{spec.name}.")}
                elif spec.name in linked:
                    inputs[spec.name] = linked[spec.name]
                elif spec.is_widget:
                    inputs[spec.name] = node.value(spec)
            prompt[str(id)] = {"class_type": node.kind, "inputs": inputs}
        return prompt
