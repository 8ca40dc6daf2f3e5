"""Draw latency and CPU against the number of callers, as an SVG whose text stays text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from callers import LABELS, Measured, figures

matplotlib.use("svg")
from matplotlib import pyplot
from matplotlib.ticker import LogLocator

#: Colors that people with any color vision can tell apart, and that are readable on white.
COLORS = {"emulator": "#d55e00", "klein": "#0072b2", "node": "#009e73", "timer": "#7f7f7f"}
MARKERS = {"emulator": "o", "klein": "s", "node": "^", "timer": "D"}

STYLE = {
    "svg.fonttype": "none",
    # The ids inside are the same each time.
    "svg.hashsalt": "twisted-cm",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
}

LATENCY, CPU = "Time of a job, ms (dotted: 99th percentile)", "CPU of the server for a job, µs"


def draw(found: Mapping[str, Mapping[int, list[Measured]]], file: Path) -> None:
    """Draw the measurements of each contender, by number of callers, into an SVG file."""
    with matplotlib.rc_context(STYLE):
        figure, (latency, cpu) = pyplot.subplots(1, 2, figsize=(9.6, 4.4), facecolor="white")
        for name, by_callers in found.items():
            callers = list(by_callers)
            look: dict[str, Any] = {"color": COLORS[name], "marker": MARKERS[name], "markersize": 5}

            p50, p99, used, _ = zip(*map(figures, by_callers.values()), strict=True)
            latency.plot(callers, p50, **look, gid=f"{name}-p50", label=LABELS[name])
            latency.plot(callers, p99, **look, gid=f"{name}-p99", linestyle=":", linewidth=1, alpha=0.6)
            cpu.plot(callers, used, **look, gid=f"{name}-cpu")
        for panel, title in ((latency, LATENCY), (cpu, CPU)):
            panel.set_title(title, loc="left")
            panel.set_xlabel("Callers at the same time")
            panel.set_xscale("log", base=2)
            panel.set_xticks(callers, [str(each) for each in callers])
            panel.set_yscale("log")
            low, high = panel.get_ylim()
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
            panel.yaxis.set_major_formatter("{x:g}")
            panel.minorticks_off()
        figure.legend(*latency.get_legend_handles_labels(), loc="lower center", ncols=len(found), frameon=False)
        figure.tight_layout(rect=(0, 0.07, 1, 1))
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": "bin/bench --plot"})
        pyplot.close(figure)
