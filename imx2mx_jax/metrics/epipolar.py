"""Epipolar error: whether points that two edited views share lie where the cameras allow them.

SED is the symmetric distance of matched points to each other's epipolar lines, TSED the share of
pairs of views whose median SED stays below a threshold and which have enough matches to tell (arXiv
2304.10700). The photographs' own error is the floor: no edit fits wrong cameras.
"""

import dataclasses
import itertools
from collections.abc import Mapping

from imx2mx_jax import matches
from imx2mx_jax.shapes import Float, UInt8, np

FEWEST_MATCHES = 10
THRESHOLDS = (2, 4, 8)  # pixels


@dataclasses.dataclass(frozen=True)
class Pair:
  """Two views that match as photographs.

  views: their positions. matches: between the edited views. median_sed, floor: medians in pixels,
  of the edited views (nan where nothing matches) and of the photographs.
  """

  views: tuple[int, int]
  matches: int
  median_sed: float
  floor: float

  def passes(self, threshold: float) -> bool:
    """Whether the edited views have enough matches, and their median stays below."""
    return self.matches >= FEWEST_MATCHES and self.median_sed < threshold


def floors(
  sources: UInt8[np.ndarray, "N H W 3"],
  c2w: Float[np.ndarray, "N 4 4"],
  K: Float[np.ndarray, "N 3 3"],
) -> dict[tuple[int, int], float]:
  """{pair of views: median SED in pixels} of the photographs, for the pairs that match.

  Those match for which one geometry, whatever the cameras, explains enough points. c2w: OpenCV
  axes. K: in units of the picture's side. A pair of cameras in one place has no epipolar lines.
  """
  features = _features(sources)
  found = {}
  for a, b in itertools.combinations(range(len(sources)), 2):
    points = matches.match(features[a], features[b])
    apart = (c2w[a, :3, 3] != c2w[b, :3, 3]).any()
    if apart and matches.consistent(points).any():
      errors = matches.epipolar_errors(points, c2w[[a, b]], _in_pixels(K, sources, a, b))
      found[a, b] = _median(errors)
  return found


def epipolar(
  edited: UInt8[np.ndarray, "N H W 3"],
  floors: Mapping[tuple[int, int], float],
  c2w: Float[np.ndarray, "N 4 4"],
  K: Float[np.ndarray, "N 3 3"],
) -> list[Pair]:
  """The errors of the edited views in the pairs that match as photographs."""
  features = _features(edited)
  pairs = []
  for (a, b), floor in floors.items():
    points = matches.match(features[a], features[b])
    errors = matches.epipolar_errors(points, c2w[[a, b]], _in_pixels(K, edited, a, b))
    pairs.append(Pair((a, b), len(errors), _median(errors), floor))
  return pairs


def floors_among(
  floors: Mapping[tuple[int, int], float], views: int
) -> dict[tuple[int, int], float]:
  """Those of the pairs among the first `views` views."""
  return {pair: floor for pair, floor in floors.items() if max(pair) < views}


def median_error(pairs: list[Pair]) -> float:
  """The median over pairs; a pair with too few matches counts as infinitely wrong."""
  errors = [pair.median_sed if pair.matches >= FEWEST_MATCHES else np.inf for pair in pairs]
  return float(np.median(errors))


def median_floor(pairs: list[Pair]) -> float:
  """The same of the photographs."""
  return float(np.median([pair.floor for pair in pairs]))


def passing(pairs: list[Pair]) -> dict[int, float]:
  """{threshold in pixels: share of the pairs of edited views that pass}."""
  return {pixels: float(np.mean([pair.passes(pixels) for pair in pairs])) for pixels in THRESHOLDS}


def floor_passing(pairs: list[Pair]) -> dict[int, float]:
  """The same of the photographs."""
  return {pixels: float(np.mean([pair.floor < pixels for pair in pairs])) for pixels in THRESHOLDS}


def _features(images: UInt8[np.ndarray, "N H W 3"]) -> list[matches.Features]:
  return [matches.sift_features(image, matches.OF_AN_EDIT) for image in images]


def _in_pixels(
  K: Float[np.ndarray, "N 3 3"], images: UInt8[np.ndarray, "N H W 3"], *views: int
) -> Float[np.ndarray, "2 3 3"]:
  height, width = images.shape[1:3]
  return K[list(views)] * np.array([width, height, 1])[:, None]


def _median(errors: Float[np.ndarray, " M"]) -> float:
  return float(np.median(errors)) if len(errors) else float("nan")
