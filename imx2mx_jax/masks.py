"""Editing a part of each view: which pixels may change, and the seam around them."""

import dataclasses
import io
import json

import cv2
from etils import epath
from PIL import Image

from imx2mx_jax import remote
from imx2mx_jax import scene as scenes
from imx2mx_jax.errors import SceneError
from imx2mx_jax.scene import Scene
from imx2mx_jax.shapes import Bool, Float, UInt8, np

_FEATHER = 1 / 48  # of the picture's longer side: from the input's own pixels to the edit's


def masked(
  scene: Scene, path: epath.PathLike, *, undistort: bool = True, authors: bool = False
) -> Scene:
  """The scene with the masks of its views: what is white may change.

  path: a folder with a PNG under each view's name, as large as the photograph; or a JSON file with
  a box for each view, {"a.jpg": [left, top, right, bottom]} in the photograph's pixels. The other
  options are those the scene was loaded with. Raises: SceneError.
  """
  path = epath.Path(path).expanduser()
  boxes = _boxes(path) if path.suffix == ".json" else None
  transforms = scenes.read_transforms(scene.path)
  found = []
  for index, name in zip(scene.frames, scene.names, strict=True):
    view = scenes.read_view(transforms, index, authors=authors)
    hw = np.rot90(view.image, view.quarters).shape[:2]
    mask = _drawn(path, boxes, name, hw) if boxes is not None else _read(path, name, hw)
    pixels = np.rot90(np.repeat(mask[..., None], 3, axis=2) * np.float32(2) - 1, -view.quarters)
    view = dataclasses.replace(view, image=pixels)
    view = scenes.straightened(view) if undistort and not authors else view
    found.append(scenes.cropped(view, scene.images.shape[1:3], authors)[0][..., 0] > 0)
    if not found[-1].any():
      raise SceneError(f"{path}: the mask of {name} leaves nothing to edit; paint a part white")
  return dataclasses.replace(scene, masks=np.stack(found))


def on_grid(
  masks: Bool[np.ndarray, "N H W"], grid: tuple[int, int]
) -> Float[np.ndarray, "N h w 1"]:
  """The part of each latent cell that may change."""
  resize = lambda mask: cv2.resize(
    mask.astype(np.float32), grid[::-1], interpolation=cv2.INTER_AREA
  )
  return np.stack([resize(mask) for mask in masks])[..., None]


def composite(
  sources: UInt8[np.ndarray, "N H W 3"],
  edited: UInt8[np.ndarray, "N H W 3"],
  masks: Bool[np.ndarray, "N h w"],
) -> UInt8[np.ndarray, "N H W 3"]:
  """The edit inside the masks, the source itself outside; feathered on the inner side."""
  side = edited.shape[1:3]
  shares = np.stack([_share(mask, side) for mask in masks])[..., None]
  mixed = sources + shares * (edited.astype(np.float32) - sources)
  return np.rint(mixed).astype(np.uint8)


def _share(mask: np.ndarray, hw: tuple[int, int]) -> Float[np.ndarray, "H W"]:
  """How much of the edit shows: nothing at the mask's edge and outside, all of it further in."""
  inside = cv2.resize(mask.astype(np.uint8), hw[::-1], interpolation=cv2.INTER_NEAREST)
  # Beyond the picture's border the mask goes on.
  distance = cv2.distanceTransform(
    cv2.copyMakeBorder(inside, 1, 1, 1, 1, cv2.BORDER_REPLICATE), cv2.DIST_L2, 5
  )[1:-1, 1:-1]
  return np.clip(distance / max(1.0, _FEATHER * max(hw)), 0, 1)


def _read(folder: epath.Path, name: str, hw: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
  file = folder / f"{epath.Path(name).stem}.png"
  try:
    with Image.open(io.BytesIO(remote.read_bytes(file))) as picture:
      mask = np.asarray(picture.convert("L")) > 127
  except (OSError, SyntaxError, ValueError) as error:
    raise SceneError(
      f"{file}: there is no mask that can be read ({error}); put a PNG there for each view"
    ) from None
  if mask.shape != hw:
    raise SceneError(
      f"{file} is {mask.shape[1]} x {mask.shape[0]} pixels and its photograph {hw[1]} x {hw[0]}; "
      "save the mask in the photograph's size"
    )
  return mask


def _boxes(file: epath.Path) -> dict[str, list[float]]:
  try:
    boxes = json.loads(remote.read_bytes(file))
  except (OSError, ValueError) as error:
    raise SceneError(f"{file}: cannot be read as JSON ({error}); mend it") from None
  if not isinstance(boxes, dict):
    raise SceneError(f'{file}: holds no object; write {{"a.jpg": [left, top, right, bottom]}}')
  return boxes


def _drawn(
  file: epath.Path, boxes: dict[str, list[float]], name: str, hw: tuple[int, int]
) -> Bool[np.ndarray, "H W"]:
  try:
    left, top, right, bottom = (round(side) for side in boxes[name])
  except (KeyError, TypeError, ValueError):
    raise SceneError(
      f"{file}: has no box for {name}; write [left, top, right, bottom] in pixels"
    ) from None
  mask = np.zeros(hw, bool)
  mask[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = True
  return mask
