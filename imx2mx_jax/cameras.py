"""Camera algebra: crops and their intrinsics, normalised poses, Pluecker maps.

Poses are camera-to-world, OpenCV axes (x right, y down, z forward). Intrinsics are normalised:
pixels divided by the picture's width and height, so that the picture is the unit square. All of it
runs once at start-up, in float64 numpy; results are float32. Source: golden/README.md, section 9;
`authors=True` reproduces the authors' program where that section's quirks say it misbehaves.
"""

import dataclasses
import fractions
import math
from collections.abc import Mapping

import cv2

from imx2mx_jax.shapes import Float, Size, height_width, np

DISTORTION = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
"""Lens distortion coefficients, as OpenCV names them."""

_HALF = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])  # OpenCV's pixels have centres at integers


@dataclasses.dataclass(frozen=True)
class Crop:
  """How a picture was framed: size before, size after the resize, the rectangle cut out."""

  hw: tuple[int, int]
  resize_hw: tuple[int, int]
  top_left: tuple[int, int]
  cut_hw: tuple[int, int]


def covering_crop(hw: tuple[int, int], wanted: tuple[int, int]) -> Crop:
  """The centred rectangle of `wanted` height and width in a picture resized just to cover it."""
  return _centred(hw, max(map(fractions.Fraction, wanted, hw)), wanted)


def authors_crop(hw: tuple[int, int], size: int) -> Crop:
  """`covering_crop` of a square, with the longer side rounded up in float64: it can be one more."""
  return _centred(hw, 1.0 / (min(hw) / size), (size, size))


def _centred(hw: tuple[int, int], factor: float | fractions.Fraction, cut: tuple[int, int]) -> Crop:
  resized = tuple(math.ceil(side * factor) for side in hw)
  top_left = (max(new // 2 - side // 2, 0) for new, side in zip(resized, cut, strict=True))
  return Crop(hw, resized, tuple(top_left), cut)


def resize_and_crop(
  image: Float[np.ndarray, "H W C"], size: Size, *, authors: bool = False
) -> tuple[Float[np.ndarray, "h w C"], Crop]:
  """Resizes a picture of any size to cover `size` and cuts out its middle.

  A reduction averages areas, each pixel weighted by the part of it that is covered; an enlargement
  interpolates bilinearly. authors: averages whole pixels in both directions, which weights border
  pixels too much and repeats pixels on enlargement (quirk 18); always a square.
  """
  hw, wanted = image.shape[:2], height_width(size)
  if authors:
    crop = authors_crop(hw, wanted[0])
    return _average_whole_pixels(image, crop), crop
  crop = covering_crop(hw, wanted)
  for new, start, side in zip(crop.resize_hw, crop.top_left, crop.cut_hw, strict=True):
    image = _resize_rows(image, new, start, side).swapaxes(0, 1)
  return image, crop


def pixel_intrinsics(
  K: Float[np.ndarray, "3 3"], hw: tuple[int, int], *, authors: bool = False
) -> Float[np.ndarray, "3 3"]:
  """Intrinsics in pixels or normalised -> in pixels of a picture of `hw`, float64.

  They count as normalised if the principal point lies in the unit square and both focal lengths are
  below 10. authors: the principal point alone decides (quirk 16).
  """
  principal_inside = np.all((K[:2, 2] >= 0) & (K[:2, 2] <= 1))
  normalised = principal_inside and (authors or max(K[0, 0], K[1, 1]) < 10)
  return K * np.array([hw[1], hw[0], 1])[:, None] if normalised else K


def crop_intrinsics(K: Float[np.ndarray, "3 3"], crop: Crop) -> Float[np.ndarray, "3 3"]:
  """Intrinsics in pixels of the whole picture -> normalised ones of its crop, float32."""
  (height, width), (new_height, new_width), (top, left) = crop.hw, crop.resize_hw, crop.top_left
  K = K * np.array([new_width / width, new_height / height, 1])[:, None]
  K[:2, 2] -= left, top
  return (K / np.array([*crop.cut_hw[::-1], 1])[:, None]).astype(np.float32)


def turn(
  c2w: Float[np.ndarray, "4 4"], K: Float[np.ndarray, "3 3"], quarters: int
) -> tuple[Float[np.ndarray, "4 4"], Float[np.ndarray, "3 3"]]:
  """The camera of `np.rot90(picture, quarters)`, given the picture's; intrinsics normalised."""
  pixels = np.linalg.matrix_power(np.array([[0, 1, 0], [-1, 0, 1], [0, 0, 1]]), quarters % 4)
  axes = np.linalg.matrix_power(np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]]), quarters % 4)
  turned = c2w.copy()
  turned[:3, :3] = c2w[:3, :3] @ axes.T
  return turned, (pixels @ K @ axes.T).astype(K.dtype)


def lens_displacement(
  K: Float[np.ndarray, "3 3"], hw: tuple[int, int], coefficients: Mapping[str, float]
) -> float:
  """How far at most, in pixels, a lens moves a point at the border of a picture of `hw`.

  K: in pixels. coefficients: OpenCV's k1 to k6, p1, p2; those that are missing are zero.
  """
  k1, k2, k3, k4, k5, k6, p1, p2 = (coefficients.get(name, 0.0) for name in DISTORTION)
  height, width = hw
  along = np.linspace(0, 1, 65)
  border = [(along, 0 * along), (along, 0 * along + 1), (0 * along, along), (0 * along + 1, along)]
  u, v = np.concatenate(border, axis=1) * [[width], [height]]
  x, y = (u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1]
  r2 = x * x + y * y
  radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
  dx = x * (radial - 1) + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
  dy = y * (radial - 1) + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
  return float(np.hypot(K[0, 0] * dx, K[1, 1] * dy).max())


def undistort(
  image: Float[np.ndarray, "H W *channels"],
  K: Float[np.ndarray, "3 3"],
  coefficients: Mapping[str, float],
  nearest: bool = False,
) -> tuple[Float[np.ndarray, "H W *channels"], Float[np.ndarray, "3 3"]]:
  """The picture that a pinhole would have taken, of the same size, and its intrinsics in pixels.

  It shows as much as leaves no empty border. coefficients: as of `lens_displacement`.
  nearest: without interpolation, as depth wants it.
  """
  size, lens = image.shape[1::-1], opencv_lens(coefficients)
  given = K - _HALF
  straight, _ = cv2.getOptimalNewCameraMatrix(given, lens, size, 0, size)
  maps = cv2.initUndistortRectifyMap(given, lens, None, straight, size, cv2.CV_32FC1)
  how = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
  image = cv2.remap(image, *maps, how, borderMode=cv2.BORDER_REPLICATE)
  return image, straight + _HALF


def undistort_points(
  points: Float[np.ndarray, "M 2"], K: Float[np.ndarray, "3 3"], coefficients: Mapping[str, float]
) -> Float[np.ndarray, "M 2"]:
  """Where a pinhole with the same intrinsics, in pixels, would have seen a picture's points."""
  if not any(coefficients.values()):
    return points
  given = K - _HALF
  moved = cv2.undistortPoints(points[:, None] - 0.5, given, opencv_lens(coefficients), P=given)
  return moved[:, 0] + 0.5


def opencv_lens(coefficients: Mapping[str, float]) -> Float[np.ndarray, " 8"]:
  """The coefficients in OpenCV's order; those that are missing are zero."""
  order = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
  return np.array([coefficients.get(name, 0.0) for name in order], np.float64)


def divided_again(K: Float[np.ndarray, "T 3 3"], size: int) -> Float[np.ndarray, "T 3 3"]:
  """What the authors' program makes of normalised intrinsics before its Pluecker maps (quirk 17).

  If any principal point lies outside its picture, the intrinsics of all cameras are divided by the
  picture's size once more.
  """
  inside = np.all((K[:, :2, 2] >= 0) & (K[:, :2, 2] <= 1))
  return K if inside else K / np.array([size, size, 1], K.dtype)[:, None]


def student_order(views: int, reference: int) -> tuple[int, ...]:
  """The view that each of the student's T = views + 1 frames shows: the reference, then all."""
  return (reference, *range(views))


def normalise_cameras(
  c2w: Float[np.ndarray, "T 4 4"], *, scale: float = 2.0, authors: bool = False
) -> Float[np.ndarray, "T 4 4"]:
  """Centres and scales the student's cameras; rotations stay. Frame 0 is the reference. Float32.

  The origin is the mean position of the views (all frames but the first), each counted once, save
  those farther from their median position than 10 times the median of such distances. The reference
  comes to lie at distance `scale` from it, unless it was nearer than a quarter of the mean
  distance: then a quarter of the mean distance becomes `scale`.

  authors: the reference counts twice; the limit is 10 times the 0.97 quantile, which none of 31
  cameras can exceed; the reference comes to lie at `scale` however near it was (quirks 10 to 12).
  """
  c2w = np.array(c2w, np.float64)
  positions = c2w[:, :3, 3] - c2w[0, :3, 3]  # so that equal positions are at zero exactly
  views = positions if authors else positions[1:]
  views = views[_inliers(views, authors)]
  centre = views.mean(axis=0)
  unit = np.linalg.norm(positions[0] - centre)
  if authors:
    unit = unit if unit > 1e-5 else 1.0
  else:
    unit = max(unit, np.linalg.norm(views - centre, axis=1).mean() / 4) or 1.0
  c2w[:, :3, 3] = (positions - centre) * (scale / unit)
  return c2w.astype(np.float32)


def pixel_centres(hw: tuple[int, int]) -> Float[np.ndarray, "h w 2"]:
  """(x, y) of every pixel's centre in units of the picture, float64: the first at 0.5 / w."""
  height, width = hw
  x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
  return np.stack([x, y], axis=-1)


def plucker(
  c2w: Float[np.ndarray, "T 4 4"], K: Float[np.ndarray, "T 3 3"], hw: tuple[int, int]
) -> Float[np.ndarray, "T h w 6"]:
  """Ray maps (unit direction, moment) in the axes of the first camera, float32.

  K: normalised intrinsics. Rays pass through the centres of `hw` cells that cover the picture;
  moment = camera centre x direction, in the units of c2w. Source: SEVA, arXiv 2503.14489.
  """
  c2w, K = np.asarray(c2w, np.float64), np.asarray(K, np.float64)
  relative = np.linalg.inv(c2w[0]) @ c2w
  points = np.pad(pixel_centres(hw), ((0, 0), (0, 0), (0, 1)), constant_values=1)
  rays = np.einsum("tij,hwj->thwi", relative[:, :3, :3] @ np.linalg.inv(K), points)
  rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
  moments = np.cross(relative[:, None, None, :3, 3], rays)
  return np.concatenate([rays, moments], axis=-1).astype(np.float32)


def _resize_rows(image: np.ndarray, new: int, start: int, count: int) -> np.ndarray:
  """Rows start to start + count of an image that is resized to `new` rows."""
  old, wanted = len(image), np.arange(start, start + count)[:, None]
  if new >= old:
    position = np.clip((wanted + 0.5) * old / new - 0.5, 0, old - 1)
    given = np.floor(position).astype(int) + np.arange(2)
    weights = np.maximum(1 - np.abs(position - given), 0)
  else:
    given = wanted * old // new + np.arange(-(-old // new) + 1)
    overlap = np.minimum((wanted + 1) * old, (given + 1) * new) - np.maximum(
      wanted * old, given * new
    )
    weights = np.maximum(overlap, 0) / old
  weights = weights.astype(np.float32)[..., None, None]
  given = np.minimum(given, old - 1)
  return sum(weights[:, tap] * image[given[:, tap]] for tap in range(given.shape[1]))


def _average_whole_pixels(image: np.ndarray, crop: Crop) -> np.ndarray:
  """PyTorch's adaptive average: every pixel that a new one touches counts fully.

  Summed in PyTorch's order, since the authors truncate the result to 8 bits: its last bit shows.
  """
  (top, bottom), (left, right) = (
    (wanted * old // new, -(-(wanted + 1) * old // new))
    for wanted, old, new in zip(
      np.add.outer(crop.top_left, np.arange(crop.cut_hw[0])), crop.hw, crop.resize_hw, strict=True
    )
  )
  total = np.zeros((*crop.cut_hw, image.shape[2]), np.float32)
  for row, column in np.ndindex((bottom - top).max(), (right - left).max()):
    y, x = np.minimum(top + row, bottom - 1), np.minimum(left + column, right - 1)
    inside = np.logical_and.outer(y == top + row, x == left + column)
    total += np.where(inside[..., None], image[y[:, None], x], 0)
  rows, columns = (bottom - top)[:, None, None], (right - left)[:, None]
  return total / rows.astype(np.float32) / columns.astype(np.float32)


def _inliers(positions: np.ndarray, authors: bool) -> np.ndarray:
  distances = np.linalg.norm(positions - np.median(positions, axis=0), axis=1)
  if authors:
    return distances <= min(10 * np.quantile(distances, 0.97), 1e6)
  limit = 10 * np.median(distances)
  return distances <= (limit or np.inf)
