"""COLMAP models, text or binary, as frames of a transforms.json, and the way back.

They are read and written by pycolmap, which the extra `colmap` installs.
"""

import pathlib
import tempfile
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from absl import logging
from etils import epath
from PIL import Image

from imx2mx_jax import remote
from imx2mx_jax.errors import SceneError
from imx2mx_jax.shapes import Float, UInt8, np

_MODELS = ("", "sparse", "sparse/0", "colmap/sparse/0", "0")
_PICTURES = ("images", "edited", "")
_LENSES = {  # model: how its parameters are called, focal lengths and principal point included
  "SIMPLE_PINHOLE": ("f", "cx", "cy"),
  "PINHOLE": ("fl_x", "fl_y", "cx", "cy"),
  "SIMPLE_RADIAL": ("f", "cx", "cy", "k1"),
  "RADIAL": ("f", "cx", "cy", "k1", "k2"),
  "OPENCV": ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "p1", "p2"),
  "FULL_OPENCV": (
    *("fl_x", "fl_y", "cx", "cy", "k1", "k2", "p1", "p2"),
    *("k3", "k4", "k5", "k6"),
  ),
}
_OPENGL = np.array([1.0, -1.0, -1.0, 1.0])


def find(path: epath.Path) -> epath.Path | None:
  """The images.bin or images.txt of the model in a folder, where COLMAP puts it, or None."""
  if path.name in ("images.bin", "images.txt"):
    return path if path.is_file() else None
  for folder in _MODELS:
    for ending in ("bin", "txt"):
      names = [path / folder / f"{part}.{ending}" for part in ("images", "cameras")]
      if all(name.is_file() for name in names):
        return names[0]
  return None


def read(file: epath.Path) -> list[dict[str, Any]]:
  """The frames of a model, in the order of their pictures' names. file: as `find` gives it.

  file_path is relative to the model's folder. Raises: SceneError.
  """
  pycolmap = library()
  try:
    model = pycolmap.Reconstruction(str(remote.here(file.parent)))
  except (ValueError, RuntimeError) as error:
    raise SceneError(
      f"{file.parent}: this COLMAP model cannot be read ({error}); export it again"
    ) from None
  images = [image for image in model.images.values() if image.has_pose]
  if not images:
    raise SceneError(f"{file.parent}: no picture of this COLMAP model has a camera; map it again")
  return [_frame(file, image) for image in sorted(images, key=lambda image: image.name)]


def write(
  folder: epath.Path,
  images: Mapping[str, UInt8[np.ndarray, "H W 3"]],
  c2w: Float[np.ndarray, "N 4 4"],
  K: Float[np.ndarray, "N 3 3"],
) -> None:
  """Writes a text model: pinhole cameras, and the points that the pictures share.

  images: {name: picture}, in the cameras' order. c2w: OpenCV axes. K: in pixels. Pictures without
  texture, or that see nothing in common, have no points; where pycolmap finds none because of an
  error of its own, that is told.
  """
  folder.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory() as work:
    try:
      model = _with_points(_pinholes(images, c2w, K), images, pathlib.Path(work))
    except (ValueError, RuntimeError) as error:
      logging.warning("%s: cameras without points (pycolmap: %s)", folder, error)
      model = _pinholes(images, c2w, K)  # the other may have been changed on the way
    model.write_text(work)
    for file in pathlib.Path(work).glob("*.txt"):
      (folder / file.name).write_bytes(file.read_bytes())


def _pinholes(images: Mapping[str, np.ndarray], c2w: np.ndarray, K: np.ndarray) -> Any:
  """A pycolmap.Reconstruction with a camera to each picture."""
  pycolmap = library()
  model = pycolmap.Reconstruction()
  views = sorted(zip(images, c2w, K, strict=True), key=lambda view: view[0])
  for number, (name, pose, k) in enumerate(views, start=1):
    height, width = images[name].shape[:2]
    params = [k[0, 0], k[1, 1], k[0, 2], k[1, 2]]
    camera = pycolmap.Camera(
      model="PINHOLE", width=width, height=height, params=params, camera_id=number
    )
    model.add_camera_with_trivial_rig(camera)
    image = pycolmap.Image(name=name, camera_id=number, image_id=number)
    model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(np.linalg.inv(pose)[:3]))
  return model


def _with_points(model: Any, images: Mapping[str, np.ndarray], work: pathlib.Path) -> Any:
  """The model with the points that SIFT finds again in another picture, placed by its cameras."""
  pycolmap = library()
  pycolmap.set_random_seed(0)
  (work / "images").mkdir()
  for name, image in images.items():
    Image.fromarray(image).save(work / "images" / name)
  pictures, names = (work / "points.db", work / "images"), list(images)
  pinhole = pycolmap.ImageReaderOptions(camera_model="PINHOLE")
  each = pycolmap.CameraMode.PER_IMAGE
  pycolmap.Database.open(pictures[0]).close()
  # Numbered by their names, as the model's are; the extraction would number them as it ends.
  pycolmap.import_images(*pictures, each, names, pinhole)
  pycolmap.extract_features(*pictures, names, each, pinhole)
  pycolmap.match_exhaustive(pictures[0])
  options = pycolmap.IncrementalPipelineOptions(random_seed=0)
  options.triangulation.ignore_two_view_tracks = False
  return pycolmap.triangulate_points(model, *pictures, work, options=options)


def library() -> ModuleType:
  """pycolmap. Raises: SceneError where it is not installed."""
  try:
    import pycolmap
  except ImportError:
    raise SceneError(
      'COLMAP models need pycolmap; install it with pip install "imx2mx_jax[colmap]"'
    ) from None
  pycolmap.logging.minloglevel = int(pycolmap.logging.FATAL)
  return pycolmap


def _frame(file: epath.Path, image: Any) -> dict[str, Any]:
  camera = image.camera
  if camera.model.name not in _LENSES:
    raise SceneError(
      f"{file.parent}: {image.name} has the camera model {camera.model.name}, which is not read; "
      "undistort the pictures first (COLMAP's image_undistorter)"
    )
  numbers = dict(zip(_LENSES[camera.model.name], map(float, camera.params), strict=True))
  focal = numbers.pop("f", None)
  focals = {"fl_x": focal, "fl_y": focal} if focal else {}
  w2c = np.concatenate([image.cam_from_world().matrix(), [[0.0, 0.0, 0.0, 1.0]]])
  return {
    "file_path": _picture(file.parent, image.name),
    "transform_matrix": (np.linalg.inv(w2c) * _OPENGL).tolist(),
    "w": camera.width,
    "h": camera.height,
    **focals,
    **numbers,
  }


def _picture(model: epath.Path, name: str) -> str:
  """Where the picture is, seen from the model's folder; beside it if it is nowhere."""
  ups = ["", "../", "../../", "../../../"]
  places = [f"{up}{folder}/{name}".lstrip("/") for up in ups for folder in _PICTURES]
  return next((place for place in places if (model / place).is_file()), name)
