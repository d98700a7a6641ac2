"""The inputs and widgets of the server's nodes, as GET /object_info defines them."""

import itertools
from collections.abc import Callable, Iterator

from .graph import ABSENT, Input, Node, Widget

AUTOGROW, DYNAMIC_COMBO, MATCH_TYPE = "COMFY_AUTOGROW_V3", "COMFY_DYNAMICCOMBO_V3", "COMFY_MATCHTYPE_V3"
CONTROL_WIDGET, CONTROL_VALUES = "control_after_generate", ("fixed", "increment", "decrement", "randomize")
# The kinds of input that are widgets, and what those show until something is saved.
WIDGET_DEFAULTS = dict.fromkeys(("STRING", "TEXTAREA", "MARKDOWN", "PAINTER", "LOAD_3D"), "")
WIDGET_DEFAULTS |= {"COMBO": ABSENT, DYNAMIC_COMBO: ABSENT}
WIDGET_DEFAULTS |= {"INT": 0, "FLOAT": 0, "BOOLEAN": False, "RANGE": {"min": 0, "max": 1}, "COLOR": "#000000", "COLORS": []}
WIDGET_DEFAULTS |= {"BOUNDING_BOX": {"x": 0, "y": 0, "width": 512, "height": 512}, "BOUNDING_BOXES": []}
WIDGET_DEFAULTS["IMAGECOMPARE"] = ["", ""]
WIDGET_DEFAULTS |= {"CURVE": {"points": [[0, 0], [1, 1]], "interpolation": "monotone_cubic"}}


def input_specs(info: dict) -> list[tuple[str, str, dict]]:
    """(name, kind, options) of the inputs of a definition, in the order of their saved values."""
    found = []
    for group in ("required", "optional"):
        inputs = info.get("input", {}).get(group) or {}
        names = dict.fromkeys([*((info.get("input_order") or {}).get(group) or ()), *inputs])
        found += [(name, *parse_spec(*inputs[name])) for name in names if name in inputs]
    return found


def parse_spec(kind: str | list, options: dict | None = None) -> tuple[str, dict]:
    """The oldest definitions have the list of options as an input's kind."""
    return ("COMBO", {**(options or {}), "options": kind}) if isinstance(kind, list) else (kind, options or {})


def is_widget(kind: str, options: dict) -> bool:
    return options.get("widgetType", kind) in WIDGET_DEFAULTS and not options.get("forceInput")


def drop_forced_values(values: list, info: dict) -> list:
    """Before frontend 1.16 inputs that are never widgets had values, too."""
    forced = []
    for _, kind, options in input_specs(info):
        if is_widget(kind, options) or options.get("forceInput"):
            forced += [bool(options.get("forceInput"))] + [False] * bool(options.get("control_after_generate"))
    return [v for v, never in zip(values, forced, strict=True) if not never] if len(values) == len(forced) else values


def apply_definition(node: Node, info: dict, converted: dict[str, str]) -> None:
    """Gives a node the inputs of its definition, sockets first, and what is saved for them.

    Saved inputs that the definition lacks stay, except those of widgets (converted: input -> widget) that it lacks.
    """
    saved = {entry.name: entry for entry in node.inputs}
    numbers = itertools.count()
    node.inputs, node.unused_values = [], dict(node.values)

    def value(name: str, default: object) -> object:
        # Some packs' nodes save theirs by name.
        number = next(numbers)
        key = next((key for key in (name, number, str(number)) if key in node.values), None)
        node.unused_values.pop(key, None)
        return node.values.get(key, default)

    def socket(name: str, kind: str, widget: Widget | None = None) -> None:
        node.inputs.append(Input(name, kind, saved[name].link if name in saved else None, widget))

    def lay_out(name: str, kind: str, options: dict) -> None:
        if kind == AUTOGROW:
            for k, grown, kind_grown in autogrow_sockets(name, options["template"]):
                if k <= options["template"].get("min", 1) or grown in saved:
                    socket(grown, kind_grown)
        elif kind == MATCH_TYPE:
            # What such a socket fits was settled by its connections when the file was saved.
            socket(name, saved[name].type if name in saved else "*")
        elif not is_widget(kind, options):
            socket(name, kind)
        else:
            drawn = options.get("widgetType", kind)
            widget = Widget(name, default_value(drawn, options), drawn, options)
            if drawn != "IMAGECOMPARE":  # which is sent but not saved
                widget.value = value(name, widget.value)
            node.widgets.append(widget)
            if not options.get("socketless"):
                socket(name, kind, widget)
            for companion in companion_widgets(name, drawn, options):
                saved_beside = value(companion, None)
                # The pack's own code may have no such widget.
                if companion == CONTROL_WIDGET and not is_control_value(saved_beside):
                    node.unused_values[companion] = saved_beside
            for key, *inner in dynamic_combo_inputs(widget):
                lay_out(f"{name}.{key}", *inner)

    for given in sorted(input_specs(info), key=lambda given: is_widget(*given[1:])):
        lay_out(*given)
    if node.type == "CustomCombo":
        node.widgets += custom_combo_widgets(node.widgets[0], value)
    if node.type in ("SaveGLB", "Preview3D"):
        node.widgets.append(Widget("image", ""))
    names = {entry.name for entry in node.inputs}
    groups = tuple(f"{widget.name}." for widget in node.widgets if widget.type == DYNAMIC_COMBO)
    widgets = {widget.name: widget for widget in node.widgets}
    for name, entry in saved.items():
        entry.widget = widgets.get(converted.get(name))
        if not (name in names or name.startswith(groups) or name in converted and not entry.widget):
            node.inputs.append(entry)
    for k, kind in enumerate(info["output"]):
        if kind != MATCH_TYPE or k >= len(node.outputs):
            node.outputs[k : k + 1] = [{"type": "COMBO" if isinstance(kind, list) else "*" if kind == MATCH_TYPE else kind}]


def autogrow_sockets(name: str, template: dict) -> Iterator[tuple[int, str, str]]:
    """(number, name, kind) of each socket that an autogrowing input can have."""
    inputs, names = input_specs(template), template.get("names")
    for k in range(len(names) if names else template.get("max", 100)):
        for key, kind, _ in inputs:
            stem = template.get("prefix", "") if len(inputs) == 1 else key
            yield k, f"{name}.{names[k] if names else f'{stem}{k}'}", "*" if kind == MATCH_TYPE else kind


def default_value(kind: str, options: dict) -> object:
    """What a widget shows until something is saved."""
    default = options.get("default")
    if kind in ("COMBO", DYNAMIC_COMBO):
        choices = [option["key"] if kind == DYNAMIC_COMBO else option for option in options.get("options") or ()]
        return (kind == "COMBO" and default) or next(iter(choices), ABSENT)
    return WIDGET_DEFAULTS[kind] if default is None else default


def companion_widgets(name: str, kind: str, options: dict) -> tuple[str, ...]:
    """The frontend's own widgets beside one, whose values are saved but not sent."""
    if kind == "BOUNDING_BOX":
        return "x", "y", "width", "height"
    if options.get("control_after_generate", kind == "INT" and name in ("seed", "noise_seed")):
        return (CONTROL_WIDGET, "control_filter_list")[: 2 if kind == "COMBO" else 1]
    return ()


def is_control_value(value: object) -> bool:
    """Whether a value may be that of control_after_generate, which was a switch once."""
    return value in (None, "", *CONTROL_VALUES) or isinstance(value, bool)


def dynamic_combo_inputs(widget: Widget) -> list[tuple[str, str, dict]]:
    """The inputs of the option that a dynamic combo has selected."""
    options = widget.options["options"] if widget.type == DYNAMIC_COMBO else ()
    return next((input_specs({"input": option["inputs"]}) for option in options if option["key"] == widget.value), [])


def custom_combo_widgets(choice: Widget, value: Callable) -> list[Widget]:
    """Custom Combo's own list: where in it the chosen line is, its lines, and an empty one."""
    index = Widget("index", value("index", None))
    lines: list[Widget] = []
    while not lines or lines[-1].value:
        name = f"option{len(lines) + 1}"
        lines.append(Widget(name, value(name, "")))
    index.value = next((k for k, line in enumerate(lines) if line.value == choice.value), -1)
    return [index, *lines]
