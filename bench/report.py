"""Results as tables, in Markdown and for the terminal."""

from typing import NamedTuple

from tabulate import tabulate

from . import host_costs
from .machine import Case
from .variants import ACCELERATED

MIB = 2**20


class Table(NamedTuple):
    title: str
    note: str
    headers: list[str]
    rows: list[list]


def pivot(rows: list[dict], cell) -> tuple[list[str], list[list]]:
    """Headers and rows with a row for each variant and a column for each case; cell(row) is what stands there."""
    cases = list(dict.fromkeys(Case(*row["case"]) for row in rows))
    cells = {(row["variant"], Case(*row["case"])): cell(row) for row in rows}
    names = dict.fromkeys(row["variant"] for row in rows)
    return ["", *map(str, cases)], [[name, *(cells.get((name, case), "") for case in cases)] for name in names]


def end_to_end_table(run: dict) -> Table:
    note = (
        "Milliseconds from POST to the pictures' bytes at the client (diffusers: from the call to JPEG bytes): "
        "median / 95th percentile of the given number of prompts, each with a new text and a new seed."
    )
    counts = sorted({row["n"] for row in run["ends"]})
    note += f" {counts[0]}{f' to {counts[-1]}' * (len(counts) > 1)} prompts a cell."
    return Table("End to end", note, *pivot(run["ends"], lambda row: f"{row['p50_ms']:.1f} / {row['p95_ms']:.1f}"))


def ratios_table(run: dict) -> Table | None:
    """How many times the accelerated pack's median the others' is; None where only one side was measured."""
    ours = {Case(*row["case"]): row["p50_ms"] for row in run["ends"] if row["variant"] == ACCELERATED}
    others = [row for row in run["ends"] if row["variant"] != ACCELERATED and Case(*row["case"]) in ours]
    if not others:
        return None
    # Not by the better of ours: where both are the same, that would only choose the luckier.
    note = f"The others' median by that of {ACCELERATED}, in the same run."
    return Table("Times as long", note, *pivot(others, lambda row: f"{row['p50_ms'] / ours[Case(*row['case'])]:.2f}"))


def models_table(run: dict) -> Table | None:
    """UNet and decoder alone beside the roofline; None where they were not measured."""
    if not run["models"]:
        return None
    roofline = {Case(*row["case"]): row["ms"] for row in run["roofline"]}
    rates = run["rates"]
    note = (
        "Milliseconds of the UNet's calls and the decoder's together, the GPU waited for around each call; in brackets, how "
        "many times the roofline it is. Measured in this run: "
        f"{rates['flop_per_second'] / 1e12:.4g} TFLOP/s in a matrix product, {rates['bytes_per_second'] / 1e9:.4g} GB/s in "
        "a copy. Caches can beat the roofline where pictures are small."
    )
    headers, rows = pivot(run["models"], lambda row: f"{row['ms']:.1f} ({row['ms'] / roofline[Case(*row['case'])]:.2f})")
    cases = list(dict.fromkeys(Case(*row["case"]) for row in run["models"]))
    return Table("UNet and decoder", note, headers, [*rows, ["roofline", *(f"{roofline[c]:.2f}" for c in cases)]])


def stages_table(run: dict) -> Table | None:
    if not run["stages"]:
        return None
    main = run["stages"][0]["case"]
    rows = [row for row in run["stages"] if row["case"] == main]
    names = [key for key in rows[0] if key not in ("variant", "case")]
    note = (
        f"Median milliseconds of {Case(*main)}, each graph alone on a server started without options. The sampler is what "
        "its node takes beside the UNet; the executor is everything outside the nodes: HTTP, queue, cache, websocket."
    )
    filled = [[name, *(f"{row[name]:.2f}" for row in rows)] for name in names]
    filled.append(["UNet, a step", *(f"{row['UNet'] / Case(*main).steps:.2f}" for row in rows)])
    return Table("Stages", note, ["", *(row["variant"] for row in rows)], filled)


def memory_table(run: dict) -> Table | None:
    if not run["peaks"]:
        return None
    kinds = list(next(iter(run["peaks"].values())))
    rows = [[name, *(f"{peak[kind] / MIB:.0f}" for kind in kinds)] for name, peak in run["peaks"].items()]
    return Table("Peak memory", "MiB of its process, after the main case.", ["", *kinds], rows)


def host_table(run: dict) -> Table | None:
    found = run["host"]
    if not found:
        return None
    note = (
        "A prompt of four steps: the executor's call from start to end (its own work, our nodes' code, the sampling stack, "
        "model management, tokenizing, the JPEG of a 64-pixel picture and its sending) without the calls of the UNet, the "
        "decoder and the text encoders; HTTP and the queue are outside. The tail: tensor to IMAGE at 1024 x 1024. The "
        "import: the host's own function for it, with the host already there."
    )
    parts = [[f"of it: {part}", f"{ms:.2f}", ""] for part, ms in found["prompt_parts_ms"].items()]
    rows = [
        ["a prompt beyond the models, ms", f"{found['prompt_ms']:.2f} (least {found['prompt_min_ms']:.2f})", "prompt_ms"],
        [
            "decode tail, ours by core's",
            f"{found['decode_tail_ratio']:.2f} ({found['decode_tail_ours_ms']:.1f} ms)",
            "decode_tail_ratio",
        ],
        ["import of the pack, ms", f"{found['import_ms']:.1f}", "import_ms"],
    ]
    filled = [[name, measured, f"{host_costs.BUDGETS[bar]:g}"] for name, measured, bar in rows]
    core = ["core's graph, beyond the same", f"{found['core_prompt_ms']:.2f}", ""]
    return Table("Host", note, ["", "measured", "at most"], [filled[0], *parts, core, *filled[1:]])


def loading_table(run: dict) -> Table | None:
    found = run["loading"]
    if not found:
        return None
    note = (
        f"Seconds of a session on a server of its own, one after the other: {Case(*run['main_case'])} each, with a new text "
        "and seed. The next pictures and the strengths are medians of three, all else happens once."
    )
    steps = list(next(iter(found.values())))
    rows = [[step, *(f"{seconds[step]:.2f}" for seconds in found.values())] for step in steps]
    return Table("Loading and switching", note, ["", *found], rows)


def build_tables(run: dict) -> list[Table]:
    made = [part(run) for part in (ratios_table, models_table, stages_table, memory_table, host_table, loading_table)]
    return [end_to_end_table(run)] * bool(run["ends"]) + [table for table in made if table]


def run_heading(run: dict) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items() if version)
    low, high = run["load_average"]
    load = f"CPU threads {run['threads']}, load average {low:.1f} before, {high:.1f} after"
    return f"{run['date']}: {', '.join(run['parts'])}; {versions}; {load}."


def left_out_lines(run: dict) -> list[str]:
    return [f"Left out: {name}, because {reason}." for name, reason in run["left_out"].items()]


def render_markdown(data: dict) -> str:
    machine = data["machine"]
    gpu = f", {machine['gpu_memory_gib']} GiB on the GPU" if machine["gpu_memory_gib"] else ""
    lines = [
        f"# {machine['name']}",
        "",
        f"{machine['system']}, {machine['cpus']} CPUs, {machine['memory_gib']} GiB{gpu}; models in {machine['dtype']}. "
        "Made by `make bench`; ratios only within a run.",
    ]
    for run in data["runs"]:
        lines += ["", f"## {run_heading(run)}", "", run["models_measured"], *(f"\n{line}" for line in left_out_lines(run))]
        for table in build_tables(run):
            rendered = tabulate(table.rows, table.headers, tablefmt="github", disable_numparse=True)
            lines += ["", f"### {table.title}", "", table.note, "", rendered]
    return "\n".join(lines) + "\n"


def render_terminal(run: dict) -> str:
    lines = [run_heading(run), *left_out_lines(run)]
    for table in build_tables(run):
        rendered = tabulate(table.rows, table.headers, tablefmt="rounded_outline", disable_numparse=True)
        lines += ["", table.title, rendered]
    return "\n".join(lines)
