"""The chart of a machine's results."""

from itertools import cycle
from pathlib import Path

import matplotlib
from matplotlib import pyplot

from .machine import Case
from .variants import ACCELERATED, BF16, OURS

matplotlib.use("Agg")
COLOURS = {OURS: "#3b6ea8", ACCELERATED: "#d1495b", BF16: "#a15c00"}
OTHER_COLOUR, MARKERS = "#757b82", "oosD^vP*X"
FONT_PT, DPI = 8, 110  # the smallest letters, in points


def draw(data: dict, path: Path) -> None:
    """Times of the last run in which most variants were measured: at its main case, by steps, by pixels."""
    runs = [run for run in data["runs"] if run["ends"]]
    if not runs:
        return
    run = max(reversed(runs), key=lambda r: len({row["variant"] for row in r["ends"]}))
    main = Case(*run["ends"][0]["case"])
    medians = {(row["variant"], Case(*row["case"])): row["p50_ms"] for row in run["ends"]}
    floor = {Case(*row["case"]): row["ms"] for row in run["roofline"]}
    figure, (ends, steps, pixels) = pyplot.subplots(1, 3, figsize=(14, 4.2), layout="constrained", width_ratios=(1.5, 1, 1))
    figure.suptitle(
        f"{data['machine']['name']}, {data['machine']['dtype']}: prompt to picture, median milliseconds", fontsize=11
    )
    draw_bars(ends, {name: ms for (name, case), ms in medians.items() if case == main}, floor[main], main)
    draw_scaling(steps, medians, floor, lambda case: case.steps, main._replace(steps=0), "steps")
    draw_scaling(pixels, medians, floor, lambda case: case.size**2 / 2**20, main._replace(size=0), "megapixels")
    figure.legend(*steps.get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=FONT_PT, frameon=False)
    figure.savefig(path, dpi=DPI)
    pyplot.close(figure)


def draw_bars(axes, medians: dict[str, float], floor: float, main: Case) -> None:
    ordered = sorted(medians.items(), key=lambda item: -item[1])
    names = [name for name, _ in ordered]
    drawn = axes.barh(names, [ms for _, ms in ordered], color=[COLOURS.get(name, OTHER_COLOUR) for name in names])
    axes.bar_label(drawn, fmt="%.0f", padding=3)
    axes.axvline(floor, color="black", linestyle="--", linewidth=1)
    axes.set_title(str(main), fontsize=10)
    axes.margins(x=0.12)


def draw_scaling(axes, medians: dict, floor: dict[Case, float], along, fixed: Case, label: str) -> None:
    """Lines of the cases that equal `fixed` except in the field that is 0 there."""

    def line(of: dict[Case, float]) -> list[tuple[float, float]]:
        alike = [c for c in of if all(want in (0, have) for want, have in zip(fixed, c, strict=True))]
        return sorted((along(case), of[case]) for case in alike)

    for name, marker in zip(dict.fromkeys(name for name, _ in medians), cycle(MARKERS), strict=False):
        points = line({case: ms for (who, case), ms in medians.items() if who == name})
        if len(points) > 1:
            axes.plot(
                *zip(*points, strict=True), marker=marker, markersize=4, color=COLOURS.get(name, OTHER_COLOUR), label=name
            )
    axes.plot(*zip(*line(floor), strict=True), color="black", linestyle="--", linewidth=1, label="UNet and decoder's limit")
    axes.set_xlabel(label)
    axes.set_ylim(bottom=0)
