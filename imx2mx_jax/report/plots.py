"""Curves over iterations as SVG, in the colours of the page around them."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

from imx2mx_jax.shapes import np

COLOURS = 6  # of runs, before they repeat

# Stand-ins that become the page's colours: it has others in the dark.
_INK, _LINE = "#010101", "#020202"
_RUNS = tuple(f"#03030{number}" for number in range(COLOURS))
_VARIABLES = {_INK: "var(--muted)", _LINE: "var(--line)"} | {
  colour: f"var(--run-{number})" for number, colour in enumerate(_RUNS)
}
_STYLE = {
  "axes.edgecolor": _LINE,
  "axes.grid": True,
  "axes.grid.axis": "y",
  "axes.labelcolor": _INK,
  "axes.spines.left": False,
  "axes.spines.right": False,
  "axes.spines.top": False,
  "font.family": ["sans-serif"],
  "font.size": 10,
  "grid.color": _LINE,
  "grid.linewidth": 0.8,
  "svg.fonttype": "none",
  "svg.hashsalt": "imx2mx_jax",
  "text.color": _INK,
  "xtick.bottom": False,
  "xtick.color": _INK,
  "ytick.color": _INK,
  "ytick.left": False,
}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def curves(runs: Sequence[Sequence[Mapping[str, Any]]], key: str, *, smooth: bool) -> Markup:
  """One number of metrics.jsonl over the iterations; a line for each run.

  smooth: draws a running mean, and the numbers themselves pale. The SVG is of this program alone,
  so it needs no escaping.
  """
  with matplotlib.rc_context(_STYLE):
    figure = Figure(figsize=(5.6, 2.7), layout="constrained")
    axes = figure.subplots()
    for number, rows in enumerate(runs):
      _draw(axes, rows, key, _RUNS[number % COLOURS], smooth)
    axes.margins(x=0.01)
    axes.set_xlabel("iteration")
    axes.ticklabel_format(axis="y", scilimits=(-3, 4), useMathText=False)
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata=_NO_METADATA)
  svg = stream.getvalue()
  svg = svg[svg.index("<svg") :]
  return Markup(re.sub("#0[123]0[123]0[0-9]", lambda found: _VARIABLES[found[0]], svg))


def _draw(axes, rows: Sequence[Mapping[str, Any]], key: str, colour: str, smooth: bool) -> None:
  points = [(row["iteration"], row[key]) for row in rows if row.get(key) is not None]
  x, y = np.array(points, float).reshape(-1, 2).T
  axes.plot(x, y, color=colour, linewidth=0.8 if smooth else 1.6, alpha=0.3 if smooth else 1)
  width = max(1, len(x) // 12)
  if smooth and len(x) > width:
    mean = np.convolve(y, np.full(width, 1 / width), "valid")
    middle = np.convolve(x, np.full(width, 1 / width), "valid")
    axes.plot(middle, mean, color=colour, linewidth=1.8)
