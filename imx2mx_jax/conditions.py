"""What a ControlNet follows: a picture for each view that says where things are, not how they look.

Conditions are in [0, 1] with three equal channels, as the released ControlNets were trained.
"""

import io
from collections.abc import Sequence

import cv2
import jax
import jax.numpy as jnp
from etils import epath
from PIL import Image

from imx2mx_jax import cameras, pictures, remote
from imx2mx_jax.errors import SceneError
from imx2mx_jax.scene import Scene, load_depth, pixels_of
from imx2mx_jax.shapes import Array, Float, np

_THRESHOLDS = 100, 200  # of Canny's gradients


def of_views(
  scene: Scene,
  views: Sequence[int],
  images: Float[np.ndarray | Array, "V H W 3"],
  condition: str,
) -> Float[np.ndarray, "V H W 3"]:
  """The conditions of some of a scene's views, at the pictures' size.

  images: those views in [-1, 1]. condition: "canny", their edges; "depth", of the scene's depth
  files; else a folder with a PNG under each view's name. Raises: SceneError.
  """
  hw = images.shape[1:3]
  if condition == "canny":
    return canny(images)
  if condition != "depth":
    folder = epath.Path(condition).expanduser()
    return np.stack([_read(folder, scene.names[view], hw) for view in views])
  depth = load_depth(scene, hw)
  if depth is None:
    raise SceneError(
      f"{scene.path}: not every frame has a depth_file_path; give a folder of depth pictures, near "
      "being bright, with --config.teacher.condition=FOLDER, or set it to canny"
    )
  spread = jax.vmap(lambda depth: from_depth(depth, depth.shape))
  return np.asarray(spread(depth[list(views)]))


def content(scene: Scene, condition: str) -> bytes:
  """What the conditions of all views are read from, to know whether it has changed.

  condition: as of `of_views`; edges are read from nothing. Raises: SceneError.
  """
  if condition == "canny":
    return b""
  if condition == "depth":
    depth = load_depth(scene, scene.images.shape[1:3])
    return b"" if depth is None else depth.tobytes()
  files = [_file(epath.Path(condition).expanduser(), name) for name in scene.names]
  return b"".join(map(_bytes, files))


def canny(images: Float[np.ndarray | Array, "N H W 3"]) -> Float[np.ndarray, "N H W 3"]:
  """White edges on black. images: in [-1, 1]."""
  edges = [cv2.Canny(image, *_THRESHOLDS) for image in pictures.to_uint8(images)]
  return np.repeat(np.stack(edges)[..., None], 3, axis=3) / np.float32(255)


def from_depth(depth: Float[Array, "H W"], hw: tuple[int, int]) -> Float[Array, "h w 3"]:
  """Inverse depth, spread over [0, 1]: the nearest is white. depth: 0 is unknown, taken as far."""
  disparity = jnp.where(depth > 0, 1 / jnp.maximum(depth, 1e-6), 0)
  low, high = disparity.min(), disparity.max()
  spread = (disparity - low) / jnp.maximum(high - low, 1e-12)
  resized = jax.image.resize(jnp.round(spread * 255) / 255, hw, "linear")
  return jnp.repeat(resized[..., None], 3, axis=2)


def _read(folder: epath.Path, name: str, hw: tuple[int, int]) -> Float[np.ndarray, "H W 3"]:
  file = _file(folder, name)
  try:
    with Image.open(io.BytesIO(_bytes(file))) as picture:
      pixels = pixels_of(picture, str(file)) / 2 + 0.5
  except (OSError, SyntaxError, ValueError) as error:
    raise _unreadable(file, error) from None
  return np.clip(cameras.resize_and_crop(pixels, hw)[0], 0, 1)


def _file(folder: epath.Path, name: str) -> epath.Path:
  return folder / f"{epath.Path(name).stem}.png"


def _bytes(file: epath.Path) -> bytes:
  try:
    return remote.read_bytes(file)
  except (OSError, ValueError) as error:
    raise _unreadable(file, error) from None


def _unreadable(file: epath.Path, error: Exception) -> SceneError:
  return SceneError(
    f"{file}: there is no condition that can be read ({error}); put a PNG there for each view"
  )
