"""Warp error: one view carried into another by the true depth, and the difference of their colours.

A view that is consistent in 3D with another shows the same colours at the same points of the scene.
What the other view does not see, or sees hidden behind something else, does not count.
"""

import dataclasses

from imx2mx_jax.cameras import pixel_centres
from imx2mx_jax.shapes import Bool, Float, np

_SAME_DEPTH = 0.02
"""Two depths of one point may differ by this share: they are samples at pixels' centres."""


@dataclasses.dataclass(frozen=True)
class WarpErrors:
  """error[i, j]: mean absolute difference, in [0, 1], of view i and view j carried into it.

  share[i, j]: of view i's pixels, those that view j sees too. Both are nan where i = j, and the
  error where the share is 0. maps[i, j]: the difference at each pixel of view i; nan where unseen.
  """

  error: Float[np.ndarray, "N N"]
  share: Float[np.ndarray, "N N"]
  maps: Float[np.ndarray, "N N H W"]

  @property
  def mean(self) -> float:
    """The mean error over all pairs that see something in common."""
    return float(np.nanmean(self.error))


def warp_errors(
  images: Float[np.ndarray, "N H W 3"],
  depth: Float[np.ndarray, "N H W"],
  c2w: Float[np.ndarray, "N 4 4"],
  K: Float[np.ndarray, "N 3 3"],
) -> WarpErrors:
  """The warp errors of every view against every other.

  images: in [-1, 1]. depth: along the viewing axis, in the poses' units, 0 where there is none
  (sky). c2w: OpenCV axes. K: in units of the picture's width and height.
  """
  count = len(images)
  maps = np.full((count, count, *images.shape[1:3]), np.nan)
  for i in range(count):
    points = unproject(depth[i], c2w[i], K[i])
    for j in range(count):
      if i == j:
        continue
      colors, seen = look_up(points, images[j], depth[j], c2w[j], K[j])
      difference = np.abs(colors - images[i]).mean(axis=-1) / 2
      maps[i, j] = np.where(seen & (depth[i] > 0), difference, np.nan)
  valid = np.isfinite(maps)
  share = valid.mean(axis=(2, 3))
  total = np.where(valid, maps, 0).mean(axis=(2, 3))
  error = np.where(share > 0, total / np.where(share > 0, share, 1), np.nan)
  np.fill_diagonal(share, np.nan)
  return WarpErrors(error, share, maps)


def unproject(
  depth: Float[np.ndarray, "H W"], c2w: Float[np.ndarray, "4 4"], K: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, "H W 3"]:
  """The points of the scene that a view's pixels show."""
  u, v = np.moveaxis(pixel_centres(depth.shape), -1, 0)
  rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones_like(u)], axis=-1)
  return depth[..., None] * rays @ c2w[:3, :3].T + c2w[:3, 3]


def look_up(
  points: Float[np.ndarray, "H W 3"],
  image: Float[np.ndarray, "H W C"],
  depth: Float[np.ndarray, "H W"],
  c2w: Float[np.ndarray, "4 4"],
  K: Float[np.ndarray, "3 3"],
) -> tuple[Float[np.ndarray, "H W C"], Bool[np.ndarray, "H W"]]:
  """The colours that a view shows at points of the scene, bilinearly, and where it sees them."""
  height, width = depth.shape
  x, y, z = np.moveaxis((points - c2w[:3, 3]) @ c2w[:3, :3], -1, 0)
  front = z > 1e-6
  z = np.where(front, z, 1)
  u = (K[0, 0] * x / z + K[0, 2]) * width - 0.5
  v = (K[1, 1] * y / z + K[1, 2]) * height - 0.5
  inside = front & (u >= 0) & (u <= width - 1) & (v >= 0) & (v <= height - 1)
  u, v = np.where(inside, u, 0), np.where(inside, v, 0)
  nearest = depth[np.rint(v).astype(int), np.rint(u).astype(int)]
  same = np.abs(nearest - z) <= _SAME_DEPTH * z
  return _bilinear(image, u, v), inside & same


def _bilinear(
  image: Float[np.ndarray, "H W C"], u: Float[np.ndarray, "H W"], v: Float[np.ndarray, "H W"]
) -> Float[np.ndarray, "H W C"]:
  column = np.minimum(np.floor(u).astype(int), image.shape[1] - 2)
  row = np.minimum(np.floor(v).astype(int), image.shape[0] - 2)
  right, down = (u - column)[..., None], (v - row)[..., None]
  upper = image[row, column] * (1 - right) + image[row, column + 1] * right
  lower = image[row + 1, column] * (1 - right) + image[row + 1, column + 1] * right
  return upper * (1 - down) + lower * down
