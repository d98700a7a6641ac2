"""bench/results/soak.md: what `make soak`, or a part of it, has measured."""

import datetime
import os
import platform
from collections import Counter, defaultdict
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]


def pytest_terminal_summary(terminalreporter, config):
    """A hook of pytest. Tests that were not run keep their rows."""
    if config.getoption("markexpr") != "soak":
        return
    target = ROOT / "bench" / "results" / "soak.md"
    kept = target.read_text(encoding="utf-8").splitlines() if target.is_file() else []
    rows = {line.split(" | ")[0]: line for line in kept if line.startswith("| test_")}
    runs = defaultdict(list)  # one of each case that measured something, else one of all cases
    for report in [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]:
        name = report.nodeid.split("::")[-1]
        runs[name if report.user_properties else name.partition("[")[0]].append(report)
    for name, reports in runs.items():
        outcomes = Counter(report.outcome for report in reports).items()
        outcome = ", ".join(f"{count} {said}" if count > 1 else said for said, count in outcomes)
        measured = ", ".join(f"{key} = {value}" for key, value in reports[0].user_properties)
        seconds = sum(report.duration for report in reports)
        rows[f"| {name}"] = f"| {name} | {outcome} | {datetime.date.today()} | {seconds:.0f} | {measured} |"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    lines = ["# Soak report", "", f"{platform.machine()}, {os.cpu_count()} CPUs, {gpu}, torch {torch.__version__}", ""]
    lines += ["| test | outcome | on | seconds | measured |", "|---|---|---|---|---|", *rows.values()]
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
