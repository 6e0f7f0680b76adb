"""A table over runs, with means and bootstrap intervals, for READMEs, programs and terminals.

An interval holds the mean with 95 % confidence, as far as these runs are drawn at random: it is of
means of runs drawn again from them. Fewer than FEWEST have none.
"""

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import rich.table

from imx2mx_jax.shapes import Float, np

FEWEST = 3
"""Runs, below which they say nothing of their mean's uncertainty."""

_RESAMPLED = 10_000
_SIDE_BY_SIDE = 4  # runs in a terminal


@dataclasses.dataclass(frozen=True)
class Column:
  """name: in the heading. at, floor: where metrics.json has it, its keys joined by dots."""

  name: str
  at: str
  form: str = "{:.3f}"
  floor: str = ""


COLUMNS = (
  Column("Cons", "clip.cons"),
  Column("Sim", "clip.sim"),
  Column("Dir", "clip.dir"),
  Column("< 2 px", "epipolar.passing.2", "{:.2f}", "epipolar.floor_passing.2"),
  Column("< 4 px", "epipolar.passing.4", "{:.2f}", "epipolar.floor_passing.4"),
  Column("< 8 px", "epipolar.passing.8", "{:.2f}", "epipolar.floor_passing.8"),
  Column("warp", "warp.mean", "{:.4f}", "warp.floor"),
  Column("PSNR", "background.psnr", "{:.1f}"),
  Column("SSIM", "background.ssim"),
  Column("changed", "background.share", "{:.2f}"),
)


_PLACES = tuple(at for column in COLUMNS for at in (column.at, column.floor) if at)


@dataclasses.dataclass(frozen=True)
class Summary:
  """The mean of a column over the runs that have it, and its 95 % interval.

  low, high: None where the runs are too few.
  """

  mean: float
  low: float | None
  high: float | None
  runs: int


Metrics = Mapping[str, Any]


def summary(values: Sequence[float | None]) -> Summary | None:
  """Of the values that there are; None where there is none."""
  known = np.array([value for value in values if value is not None], np.float64)
  if not len(known):
    return None
  low = high = None
  if len(known) >= FEWEST:
    low, high = np.quantile(_resampled_means(known), [0.025, 0.975]).tolist()
  return Summary(float(known.mean()), low, high, len(known))


def summaries(metrics: Sequence[Metrics]) -> dict[str, Summary]:
  """{place in metrics.json: its summary}, of the columns and floors that some run has."""
  found = {at: summary([look_up(one, at) for one in metrics]) for at in _PLACES}
  return {at: one for at, one in found.items() if one is not None}


def look_up(metrics: Metrics, at: str) -> float | None:
  """A number of metrics.json; None where it is not there."""
  value: Any = metrics
  for key in at.split("."):
    value = value.get(key) if isinstance(value, Mapping) else None
  return value


def rows(runs: Mapping[str, Metrics]) -> tuple[list[str], list[list[str]]]:
  """The heading and the lines as texts. runs: {name: metrics.json}. Two runs or more have means."""
  means = summaries(list(runs.values()))
  columns = [column for column in COLUMNS if column.at in means]
  lines = [[name, *(_cell(metrics, one) for one in columns)] for name, metrics in runs.items()]
  if len(runs) > 1:
    lines.append([f"mean of {len(runs)}", *(_mean(one, means, len(runs)) for one in columns)])
    lines.append(["95 % interval", *(_interval(one, means[one.at]) for one in columns)])
  return ["run", *(column.name for column in columns)], lines


def markdown(runs: Mapping[str, Metrics]) -> str:
  """The table for a README; a floor is in brackets."""
  heading, lines = rows(runs)
  table = [heading, ["---", *["---:"] * (len(heading) - 1)], *lines]
  return "".join(f"| {' | '.join(line)} |\n" for line in table)


def comma_separated(runs: Mapping[str, Metrics]) -> str:
  """The runs' numbers as they are, floors in columns of their own, then what `Summary` has."""
  means = summaries(list(runs.values()))
  stream = io.StringIO()
  writer = csv.writer(stream, lineterminator="\n")
  writer.writerow(["run", *_PLACES])
  for name, metrics in runs.items():
    writer.writerow([name, *(look_up(metrics, place) for place in _PLACES)])
  for field in dataclasses.fields(Summary):
    writer.writerow([field.name, *(getattr(means.get(at), field.name, None) for at in _PLACES)])
  return stream.getvalue()


def as_json(runs: Mapping[str, Metrics]) -> str:
  """{"runs": {name: metrics.json}, "summary": {place: mean, low, high, runs}}."""
  means = summaries(list(runs.values()))
  summed = {at: dataclasses.asdict(one) for at, one in means.items()}
  return json.dumps({"runs": runs, "summary": summed}, indent=1, ensure_ascii=False) + "\n"


def for_terminal(runs: Mapping[str, Metrics]) -> rich.table.Table:
  """A line for each measure; of more than a few runs, only their means."""
  heading, lines = rows(runs)
  shown = lines if len(runs) <= _SIDE_BY_SIDE else lines[-2:]
  table = rich.table.Table("", box=rich.box.SIMPLE_HEAD)
  for name, *_ in shown:
    table.add_column(name, justify="right", overflow="fold")
  for cells in list(zip(heading, *shown, strict=True))[1:]:
    table.add_row(*cells)
  return table


def _resampled_means(values: Float[np.ndarray, " M"]) -> Float[np.ndarray, " R"]:
  drawn = np.random.default_rng(0).integers(len(values), size=(_RESAMPLED, len(values)))
  return values[drawn].mean(axis=1)


def _cell(metrics: Metrics, column: Column) -> str:
  value = look_up(metrics, column.at)
  floor = look_up(metrics, column.floor) if column.floor else None
  return _told(column, value) + (f" ({_told(column, floor)})" if floor is not None else "")


def _told(column: Column, value: float | None) -> str:
  return "" if value is None else column.form.format(value)


def _mean(column: Column, means: Mapping[str, Summary], runs: int) -> str:
  """With the floor's mean, and how many runs it is of where not all have the measure."""
  found, floor = means[column.at], means.get(column.floor)
  told = _told(column, found.mean) + (f" ({_told(column, floor.mean)})" if floor else "")
  return told if found.runs == runs else f"{told}, of {found.runs}"


def _interval(column: Column, found: Summary) -> str:
  if found.low is None:
    return ""
  return f"{_told(column, found.low)} to {_told(column, found.high)}"
