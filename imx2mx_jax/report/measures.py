"""The measures of metrics.json in words: what each says, its value, and the floor beside it."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Measure:
  """One line of the table. at, floor: where metrics.json has it, its keys joined by dots.

  lost: what to say where it was measured and there is no number.
  """

  name: str
  at: str
  meaning: str
  floor: str = ""
  form: str = "{:.3f}"
  lost: str = ""


@dataclasses.dataclass(frozen=True)
class Line:
  """A measure of some runs, as one reads it; "" where it is not known."""

  name: str
  meaning: str
  values: tuple[str, ...]
  floor: str


@dataclasses.dataclass(frozen=True)
class Pair:
  """How far the points that two views share are off their epipolar lines, in pixels.

  matches: points that the edited views share. error, floor: medians in the edited views (None where
  nothing matches any more) and in the originals.
  """

  views: tuple[int, int]
  matches: int
  error: float | None
  floor: float


_PASSING = tuple(
  Measure(
    f"Pairs within {pixels} px",
    f"epipolar.passing.{pixels}",
    f"Share of the pairs of views that still have ten matches, and an error below {pixels} pixels.",
    f"epipolar.floor_passing.{pixels}",
    "{:.0%}",
  )
  for pixels in (2, 4, 8)
)
MEASURES = (
  Measure(
    "Direction of the edit",
    "clip.dir",
    "Whether the pictures changed the way the captions did, as CLIP sees it, at most 1; near 0 the "
    "edit did not happen.",
  ),
  Measure(
    "Fit to the caption",
    "clip.sim",
    "How well the edited views fit the caption of the edited scene, as CLIP sees it.",
  ),
  Measure(
    "Changed alike",
    "clip.cons",
    "Whether the differences between views stayed what they were, as CLIP sees them, at most 1; "
    "with a low direction it means that nothing was edited. It knows nothing of geometry and does "
    "not tell consistent views from others.",
  ),
  Measure(
    "Epipolar error",
    "epipolar.median",
    "How far points that two edited views share lie from where the cameras allow them, the median "
    "over the pairs that match as photographs, those that lost their matches being the worst; at "
    "the floor the edits fit the cameras as well as the photographs do.",
    "epipolar.median_floor",
    "{:.2f} px",
    "too few matches",
  ),
  *_PASSING,
  Measure(
    "Warp error",
    "warp.mean",
    "Difference in colour between a view and the others moved onto it by their true depth, hidden "
    "places left out; less is better, and the photographs themselves have the floor.",
    "warp.floor",
    "{:.4f}",
  ),
  Measure(
    "Background kept, PSNR",
    "background.psnr",
    "How equal photograph and edit are where nothing should have changed; above 30 dB one hardly "
    "sees a difference. Without a mask that is where they differ by less than a tenth of the "
    "range: read it with the share that changed.",
    form="{:.1f} dB",
  ),
  Measure(
    "Background kept, SSIM",
    "background.ssim",
    "The same by structure; 1 is equal.",
  ),
  Measure(
    "Share that changed",
    "background.share",
    "How much of the pictures counts as edited, and not as background.",
    form="{:.0%}",
  ),
)


def lines(metrics: Sequence[Mapping[str, Any]]) -> list[Line]:
  """The measures that at least one run has. metrics: each run's metrics.json.

  Runs of other sizes have other floors: all of them are told.
  """
  found = []
  for measure in MEASURES:
    values = tuple(_text(one, measure.at, measure.form, measure.lost) for one in metrics)
    floors = [_text(one, measure.floor, measure.form) for one in metrics]
    if any(values):
      different = dict.fromkeys(filter(None, floors))
      found.append(Line(measure.name, measure.meaning, values, ", ".join(different)))
  return found


def pairs(metrics: Mapping[str, Any]) -> list[Pair]:
  """The pairs of views, those first that lost most against their floor."""
  found = [
    Pair(tuple(pair["views"]), pair["matches"], _finite(pair["median_sed"]), pair["floor"])
    for pair in metrics.get("epipolar", {}).get("pairs", [])
  ]
  lost = lambda pair: math.inf if pair.error is None else pair.error - pair.floor
  return sorted(found, key=lost, reverse=True)


def _finite(value: float | None) -> float | None:
  return value if value is not None and math.isfinite(value) else None


def _text(metrics: Mapping[str, Any], at: str, form: str, lost: str = "") -> str:
  value: Any = metrics
  for key in filter(None, at.split(".")):
    if not isinstance(value, Mapping) or key not in value:
      return ""
    value = value[key]
  return form.format(value) if isinstance(value, int | float) else lost
