"""Points that two pictures show both, and how far cameras say that they are off.

Points are (x, y) in pixels, the first pixel's centre at 0.5. The error is the symmetric epipolar
distance of arXiv 2304.10700: the mean distance of the two points to each other's epipolar lines.
"""

import dataclasses

import cv2

from imx2mx_jax.shapes import Bool, Float, UInt8, np

_RATIO = 0.8  # of the best descriptor's distance to the second best's (Lowe 2004)
_FEWEST_FOR_GEOMETRY = 16  # below that, RANSAC finds a geometry in anything


@dataclasses.dataclass(frozen=True)
class Features:
  """SIFT features of a picture."""

  points: Float[np.ndarray, "M 2"]
  descriptors: Float[np.ndarray, "M 128"]


OF_AN_EDIT = 2000
"""Features of an edited view, in measures and pictures of them alike."""


def sift_features(picture: UInt8[np.ndarray, "H W 3"], most: int = 4000) -> Features:
  """The strongest SIFT features of the picture in grey, `most` at most."""
  grey = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY)
  found, descriptors = cv2.SIFT_create(most).detectAndCompute(grey, None)
  if not found:
    return Features(np.zeros((0, 2)), np.zeros((0, 128), np.float32))
  return Features(np.array([feature.pt for feature in found]) + 0.5, descriptors)


def match(first: Features, second: Features) -> Float[np.ndarray, "2 M 2"]:
  """Points of the first picture and their partners in the second.

  Each is the other's nearest by far: Lowe's ratio test, both ways.
  """
  there = _nearest(first.descriptors, second.descriptors)
  back = _nearest(second.descriptors, first.descriptors)
  pairs = [(i, j) for i, j in there.items() if back.get(j) == i]
  i, j = np.array(pairs, int).reshape(-1, 2).T
  return np.stack([first.points[i], second.points[j]])


def sift_matches(
  first: UInt8[np.ndarray, "H W 3"], second: UInt8[np.ndarray, "h w 3"]
) -> Float[np.ndarray, "2 M 2"]:
  """Points of the first picture and their partners in the second, by SIFT."""
  return match(sift_features(first), sift_features(second))


def consistent(points: Float[np.ndarray, "2 M 2"], within: float = 2.0) -> Bool[np.ndarray, "M"]:
  """Which matches one geometry, whatever the cameras, explains to `within` pixels (RANSAC).

  The others are mistakes of the matching. None where there are too few for a geometry.
  """
  count = points.shape[1]
  if count < _FEWEST_FOR_GEOMETRY:
    return np.zeros(count, bool)
  mask = _ransac(points, within)
  inside = np.zeros(count, bool) if mask is None else mask[:, 0].astype(bool)
  return inside if inside.sum() >= _FEWEST_FOR_GEOMETRY else np.zeros(count, bool)


def epipolar_errors(
  points: Float[np.ndarray, "2 M 2"],
  c2w: Float[np.ndarray, "2 4 4"],
  K: Float[np.ndarray, "2 3 3"],
) -> Float[np.ndarray, "M"]:
  """Each match's symmetric epipolar distance in pixels.

  c2w: OpenCV axes. K: in pixels of the two pictures. nan where both cameras stand in one place.
  """
  F = fundamental(c2w, K)
  first, second = np.pad(points, ((0, 0), (0, 0), (0, 1)), constant_values=1)
  in_second, in_first = first @ F.T, second @ F
  off = np.abs(np.sum(second * in_second, axis=1))
  with np.errstate(divide="ignore", invalid="ignore"):
    return sum(off / np.hypot(line[:, 0], line[:, 1]) for line in (in_first, in_second)) / 2


def fundamental(
  c2w: Float[np.ndarray, "2 4 4"], K: Float[np.ndarray, "2 3 3"]
) -> Float[np.ndarray, "3 3"]:
  """F with second^T F first = 0 for the homogeneous points of a match; float64."""
  c2w, K = np.asarray(c2w, np.float64), np.asarray(K, np.float64)
  relative = np.linalg.inv(c2w[1]) @ c2w[0]
  baseline = relative[:3, 3] / (np.linalg.norm(relative[:3, 3]) or 1)
  essential = np.cross(np.eye(3), baseline).T @ relative[:3, :3]
  return np.linalg.inv(K[1]).T @ essential @ np.linalg.inv(K[0])


def in_front(
  points: Float[np.ndarray, "2 M 2"],
  c2w: Float[np.ndarray, "2 4 4"],
  K: Float[np.ndarray, "2 3 3"],
) -> Bool[np.ndarray, "M"]:
  """Whether a match's rays come nearest to each other in front of both cameras.

  An epipolar line has no direction: axes that are mirrored may leave all errors as they are.
  """
  rays = np.pad(points, ((0, 0), (0, 0), (0, 1)), constant_values=1)
  rays = rays @ (c2w[:, :3, :3] @ np.linalg.inv(K)).swapaxes(1, 2)
  baseline = c2w[1, :3, 3] - c2w[0, :3, 3]
  (aa, ab), (_, bb) = np.einsum("imk,jmk->ijm", rays, rays)
  a, b = rays @ baseline
  return (a * bb - b * ab > 0) & (a * ab - b * aa > 0)


def _ransac(points: np.ndarray, within: float) -> np.ndarray | None:
  """OpenCV's mask of inliers; MAGSAC ends in an assertion of its own on a few good sets."""
  find = lambda method: cv2.findFundamentalMat(*points, method, within, 0.999, 10000)[1]
  cv2.setRNGSeed(0)
  try:
    return find(cv2.USAC_MAGSAC)
  except cv2.error:
    return find(cv2.FM_RANSAC)


def _nearest(queries: np.ndarray, candidates: np.ndarray) -> dict[int, int]:
  """{query: candidate} for those that pass the ratio test."""
  if len(queries) < 1 or len(candidates) < 2:
    return {}
  pairs = cv2.BFMatcher(cv2.NORM_L2).knnMatch(queries, candidates, k=2)
  near = [best for best, other in pairs if best.distance < _RATIO * other.distance]
  return {best.queryIdx: best.trainIdx for best in near}
