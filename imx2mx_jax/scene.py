"""Photographs and cameras from disk: transforms.json and its pictures -> Scene.

Every complaint about them is a SceneError of one sentence: the file, the value found, the way out.
Nothing is ever written into the scene's folder.
"""

import dataclasses
import difflib
import io
import itertools
import json
import math
from collections.abc import Mapping, Sequence

from absl import logging
from etils import epath
from PIL import Image, ImageOps

from imx2mx_jax import cameras, colmap, remote
from imx2mx_jax.errors import SceneError
from imx2mx_jax.shapes import Bool, Float, Size, height_width, np

FEWEST_VIEWS, MOST_VIEWS = 2, 20

OPENGL_TO_OPENCV = np.array([1.0, -1.0, -1.0, 1.0])
"""Times the columns of a camera-to-world matrix: y and z the other way round."""

_FOCAL = ("fl_x", "fl_y", "camera_angle_x", "camera_angle_y")
_NOT_PINHOLE = ("FISHEYE", "EQUIRECTANGULAR", "ORTHO")
_EXIF_ORIENTATION = 0x0112
_EXIF_QUARTERS = {6: -1, 8: 1}  # np.rot90 quarters that bring the stored picture upright


@dataclasses.dataclass(frozen=True)
class Scene:
  """N equally large photographs of one scene and their cameras, in the user's order.

  images: in [-1, 1]. c2w: camera-to-world as in the file, OpenCV axes (x right, y down, z forward),
  float64, neither centred nor scaled. K: intrinsics in units of the picture's width and height.
  names: the pictures' file names, no two with the same stem. frames: their positions in the file's
  list, and file_paths as they stand there. path: the file of cameras. masks: which pixels may
  change, None where all may (imx2mx_jax/masks.py). undistorted: whether the pictures were freed of
  distortion.
  """

  images: Float[np.ndarray, "N H W 3"]
  c2w: Float[np.ndarray, "N 4 4"]
  K: Float[np.ndarray, "N 3 3"]
  names: tuple[str, ...]
  frames: tuple[int, ...]
  file_paths: tuple[str, ...]
  path: str
  masks: Bool[np.ndarray, "N H W"] | None = None
  undistorted: bool = False


@dataclasses.dataclass(frozen=True)
class Transforms:
  """A transforms.json: its file, its top level and its frames, as they stand there."""

  file: epath.Path
  top: Mapping[str, object]
  frames: Sequence[Mapping[str, object]]

  def where(self, index: int) -> str:
    """What a complaint about a frame begins with: the file, the frame's number and its picture."""
    picture = self.frames[index].get("file_path")
    return f"{self.file}: frame {index}" + (f" ({picture})" if picture else "")

  def holder(self, index: int, keys: Sequence[str], authors: bool = False) -> Mapping[str, object]:
    """Where a frame's `keys` are looked up: the frame if it names one of them, else the top level.

    authors: key by key, and the top level wins (quirk 15).
    """
    frame = self.frames[index]
    if authors:
      return {**frame, **self.top}
    return frame if any(key in frame for key in keys) else self.top


def load_scene(
  path: epath.PathLike,
  frames: Sequence[int | str] = (),
  *,
  size: Size,
  undistort: bool = True,
  authors: bool = False,
) -> Scene:
  """Reads the chosen frames of a scene: 2 to 20 pictures, resized and cropped to `size` pixels.

  path: a folder with a NeRF-style transforms.json (OpenGL axes; nerfstudio's applied_transform is
  undone), or that file. frames: positions in the file's list, or names of pictures; their order is
  kept; none means all. Pictures may be of any size and mode; transparency comes to lie on white.

  A picture that its EXIF tag turns by a quarter is shown upright. Its camera is taken to be that of
  the upright picture, unless the file's w and h are those of the stored one: then the camera is
  turned along.

  undistort: pictures are freed of the lens distortion that the file has for them, and their cameras
  become those of the straight pictures; otherwise a warning says how large it is.

  authors: the frames are sorted (quirk 13), sizes may differ from the file's and poses may
  coincide; intrinsics and resize as in quirks 15, 16 and 18; distortion is ignored.

  Raises: SceneError.
  """
  transforms = read_transforms(path)
  chosen = choose(transforms, frames)
  chosen = sorted(chosen) if authors else chosen
  file_paths = tuple(_file_path(transforms, index) for index in chosen)
  if not authors:
    c2w = [camera_to_world(transforms, index) for index in chosen]
    _refuse_identical_poses(transforms, chosen, c2w)
  views = [read_view(transforms, index, authors=authors) for index in chosen]
  if undistort and not authors:
    views = [straightened(view) for view in views]
  _warn_of_distortion(transforms, chosen, views, authors)
  images, c2w, K = zip(*(cropped(view, size, authors) for view in views), strict=True)
  return Scene(
    np.stack(images),
    np.stack(c2w),
    np.stack(K),
    _names(chosen, file_paths),
    tuple(chosen),
    file_paths,
    str(transforms.file),
    undistorted=undistort and not authors,
  )


def load_depth(scene: Scene, size: Size) -> Float[np.ndarray, "N H W"] | None:
  """The views' depth along the viewing axis, in the poses' units; None where a frame has none.

  Each pixel has the nearest sample of its frame's `depth_file_path`, times the file's
  `depth_unit_scale_factor` (0.001 where that is missing, as in nerfstudio); 0 is unknown. It is
  straightened where the scene's pictures are. Frames that an EXIF tag turns are not supported.
  Raises: SceneError.
  """
  transforms = read_transforms(scene.path)
  files = [transforms.frames[index].get("depth_file_path") for index in scene.frames]
  if not all(files):
    return None
  scale = float(transforms.top.get("depth_unit_scale_factor", 1e-3))
  views = [_depth(transforms, index, size, scene.undistorted) for index in scene.frames]
  return np.stack(views) * np.float32(scale)


def transforms_of(
  scene: Scene, file_paths: Sequence[str], hw: tuple[int, int]
) -> dict[str, object]:
  """What a transforms.json says of the scene's cameras, for pictures of `hw` that they show.

  It is what `load_scene` and nerfstudio read: OpenGL axes, intrinsics of each frame in pixels.
  """
  frames = []
  for path, c2w, K in zip(file_paths, scene.c2w, scene.K, strict=True):
    (fl_x, _, cx), (_, fl_y, cy), _ = (K * np.array([hw[1], hw[0], 1])[:, None]).tolist()
    numbers = {"fl_x": fl_x, "fl_y": fl_y, "cx": cx, "cy": cy, "w": hw[1], "h": hw[0]}
    pose = (c2w * OPENGL_TO_OPENCV).tolist()
    frames.append({"file_path": path, **numbers, "transform_matrix": pose})
  return {"camera_model": "PINHOLE", "frames": frames}


def view_of(scene: Scene, wanted: int | str) -> int:
  """Which of the scene's views is meant by a frame's position in the file, or by a picture's name.

  Raises: SceneError.
  """
  return place_of(scene.path, dict(zip(scene.frames, scene.file_paths, strict=True)), wanted)


def place_of(file: object, chosen: Mapping[int, str], wanted: int | str) -> int:
  """`view_of`, among frames alone: {position in the file: file_path}, in the views' order.

  file: what a complaint begins with. Raises: SceneError.
  """
  return list(chosen).index(_frame_number(file, chosen, wanted))


def read_transforms(path: epath.PathLike) -> Transforms:
  """Reads a folder's transforms.json, or that file itself, or the COLMAP model in a folder.

  A model's frames have what a transforms.json would say of them. Raises: SceneError, RemoteError.
  """
  if remote.is_remote(path):
    remote.filesystem(path)  # a sentence where epath has a traceback
  folder = epath.Path(path).expanduser()
  with remote.reaching(folder):
    if not folder.exists():
      raise SceneError(f"{folder}: there is no such folder; give one that holds a transforms.json")
    file = folder / "transforms.json" if folder.is_dir() else folder
    there = file.exists()
    model = None if there and file == folder / "transforms.json" else colmap.find(folder)
  if model:
    return Transforms(model, {}, colmap.read(model))
  if not there:
    raise SceneError(
      f"{file}: this file of cameras is missing; give a folder that holds one or a COLMAP model, "
      "or write it with nerfstudio's ns-process-data"
    )
  try:
    top = json.loads(remote.read_bytes(file))
  except json.JSONDecodeError as e:
    raise SceneError(
      f"{file}: broken JSON at line {e.lineno}, column {e.colno} ({e.msg}); "
      "mend it there or export the file again"
    ) from None
  except (OSError, UnicodeDecodeError) as e:
    raise SceneError(f"{file}: cannot be read as JSON ({e}); export the file again") from None
  frames = top.get("frames") if isinstance(top, dict) else None
  if not isinstance(frames, list) or not frames:
    raise SceneError(
      f"{file}: has no list of frames; export it again, with at least {FEWEST_VIEWS}"
    )
  for index, frame in enumerate(frames):
    if not isinstance(frame, dict):
      raise SceneError(
        f"{file}: frame {index} is {json.dumps(frame):.40}, not an object with a file_path and a "
        "transform_matrix; mend or remove it"
      )
  return Transforms(file, top, frames)


def camera_to_world(
  transforms: Transforms, index: int, *, mirrored: bool = False
) -> Float[np.ndarray, "4 4"]:
  """A frame's pose, applied_transform undone, in OpenCV axes, float64.

  mirrored: whether that passes too, for those who explain it. Raises: SceneError.
  """
  pose = np.linalg.inv(applied_transform(transforms)) @ stated_pose(transforms, index)
  _refuse_non_rigid(pose, transforms, index, mirrored)
  return pose * OPENGL_TO_OPENCV


def stated_pose(transforms: Transforms, index: int) -> Float[np.ndarray, "4 4"]:
  """A frame's transform_matrix as it stands there, float64. Raises: SceneError."""
  where, frame = transforms.where(index), transforms.frames[index]
  if "transform_matrix" not in frame:
    raise SceneError(f"{where} has no transform_matrix; add its camera's pose or leave it out")
  return _matrix(frame["transform_matrix"], [(4, 4)], f"{where}: transform_matrix")


def applied_transform(transforms: Transforms) -> Float[np.ndarray, "4 4"]:
  """What nerfstudio says that it did to the poses; nothing where it says nothing. Invertible."""
  if "applied_transform" not in transforms.top:
    return np.eye(4)
  what = f"{transforms.file}: applied_transform"
  applied = _matrix(transforms.top["applied_transform"], [(3, 4), (4, 4)], what)
  if np.linalg.matrix_rank(applied[:3, :3]) < 3:
    raise SceneError(f"{what} is singular, so that it cannot be undone; mend or remove it")
  return np.concatenate([applied[:3], [[0.0, 0.0, 0.0, 1.0]]])


def intrinsics(
  transforms: Transforms, index: int, hw: tuple[int, int], *, authors: bool = False
) -> Float[np.ndarray, "3 3"]:
  """A frame's intrinsics in the file's own units, float64; `hw` is the picture's size in pixels.

  fl_x or camera_angle_x is needed; fl_y is fl_x and the principal point the middle where missing.
  A frame's own focal length or principal point wins over the top level's. Raises: SceneError.
  """
  where, (height, width) = transforms.where(index), hw
  focal = transforms.holder(index, _FOCAL, authors)
  if "fl_x" not in focal and "camera_angle_x" not in focal:
    raise SceneError(
      f"{where} has no focal length; add fl_x (in pixels) or camera_angle_x (in radians) "
      "to the frame or to the top level of the file"
    )
  fl_x = _focal_length(focal, "x", width, where)
  has_y = "fl_y" in focal or "camera_angle_y" in focal
  fl_y = _focal_length(focal, "y", height, where) if has_y else fl_x
  in_pixels = "fl_x" not in focal or fl_x >= 10
  middle = (width / 2, height / 2) if in_pixels else (0.5, 0.5)
  principal = transforms.holder(index, ("cx", "cy"), authors)
  cx, cy = (
    _number(principal, key, where) if key in principal else default
    for key, default in zip(("cx", "cy"), middle, strict=True)
  )
  return np.array([[fl_x, 0, cx], [0, fl_y, cy], [0, 0, 1]])


@dataclasses.dataclass(frozen=True)
class View:
  """A frame's whole picture, as the camera of the file saw it, and that camera.

  image: in [-1, 1]. c2w: OpenCV axes. K: in pixels. lens: distortion that the picture has, by
  OpenCV's names. quarters: of np.rot90 that bring the picture upright.
  """

  image: Float[np.ndarray, "H W 3"]
  c2w: Float[np.ndarray, "4 4"]
  K: Float[np.ndarray, "3 3"]
  lens: Mapping[str, float]
  quarters: int


def read_view(transforms: Transforms, index: int, *, authors: bool = False) -> View:
  """Reads a frame's picture and its camera. authors: as of `load_scene`. Raises: SceneError."""
  pixels, orientation = read_picture(transforms, index)
  hw = pixels.shape[:2]
  quarters = 0 if authors else quarters_from_file(transforms, index, hw, orientation)
  pixels = np.rot90(pixels, -quarters)
  K = intrinsics(transforms, index, pixels.shape[:2], authors=authors)
  K = cameras.pixel_intrinsics(K, pixels.shape[:2], authors=authors)
  return View(pixels, camera_to_world(transforms, index), K, lens(transforms, index), quarters)


def straightened(view: View) -> View:
  """The view without lens distortion, as large a part of it as has no empty border."""
  if not any(view.lens.values()):
    return view
  image, K = cameras.undistort(view.image, view.K, view.lens)
  return dataclasses.replace(view, image=image, K=K, lens={})


def lens(transforms: Transforms, index: int) -> dict[str, float]:
  """A frame's distortion, by OpenCV's names. Raises: SceneError if no pinhole is behind it."""
  where = transforms.where(index)
  model = str(transforms.holder(index, ("camera_model",)).get("camera_model", ""))
  if any(name in model.upper() for name in _NOT_PINHOLE):
    raise SceneError(
      f"{where} has the camera model {model}, which no pinhole camera stands for; "
      "undistort the pictures first (for example with COLMAP's image_undistorter)"
    )
  holder = transforms.holder(index, cameras.DISTORTION)
  return {key: _number(holder, key, where) for key in cameras.DISTORTION if key in holder}


def cropped(
  view: View, size: Size, authors: bool = False
) -> tuple[Float[np.ndarray, "H W 3"], Float[np.ndarray, "4 4"], Float[np.ndarray, "3 3"]]:
  """The upright picture's middle, the camera of that, and its normalised intrinsics."""
  wanted = height_width(size)
  wanted = wanted[::-1] if view.quarters % 2 else wanted
  image, crop = cameras.resize_and_crop(view.image, wanted, authors=authors)
  c2w, K = cameras.turn(view.c2w, cameras.crop_intrinsics(view.K, crop), view.quarters)
  image = np.rot90(np.clip(image, -1, 1), view.quarters)  # averages of white come out above 1
  return image, c2w, K


def quarters_from_file(
  transforms: Transforms, index: int, hw: tuple[int, int], orientation: int
) -> int:
  """By how many quarters the upright picture (of size hw) is turned against the file's w and h.

  Raises: SceneError if the file's picture had another size.
  """
  if _has_stated_size(transforms, index, hw):
    return 0
  if orientation in _EXIF_QUARTERS and turned_size(transforms, index, hw):
    return _EXIF_QUARTERS[orientation]
  wanted = zip("hw", stated_size(transforms, index)[::-1], strict=True)
  stated = " and ".join(f"{key} = {value:g}" for key, value in wanted if value is not None)
  raise SceneError(
    f"{transforms.where(index)} is a picture of {hw[1]} x {hw[0]} pixels, but the file has "
    f"{stated}; use the pictures that the cameras were computed for, or scale w, h and the "
    "intrinsics"
  )


def turned_size(transforms: Transforms, index: int, hw: tuple[int, int]) -> bool:
  """Whether a picture of that size has the file's width for its height and the other way round."""
  fits = _has_stated_size(transforms, index, hw[::-1])
  return fits and not _has_stated_size(transforms, index, hw)


def _has_stated_size(transforms: Transforms, index: int, hw: tuple[int, int]) -> bool:
  wanted = stated_size(transforms, index)
  return all(side in (None, found) for side, found in zip(wanted, hw[::-1], strict=True))


def stated_size(transforms: Transforms, index: int) -> tuple[float | None, float | None]:
  """A frame's w and h in the file, None where it does not say. Raises: SceneError."""
  where, sizes = transforms.where(index), transforms.holder(index, ("w", "h"))
  w, h = (_number(sizes, key, where) if key in sizes else None for key in ("w", "h"))
  return w, h


def _depth(transforms: Transforms, index: int, size: Size, undistorted: bool) -> np.ndarray:
  """[S S] float32, in the file's own units."""
  path = transforms.file.parent / transforms.frames[index]["depth_file_path"]
  try:
    with Image.open(io.BytesIO(remote.read_bytes(path))) as picture:
      depth = np.asarray(picture, np.float32)
  except (OSError, SyntaxError, ValueError) as e:
    raise SceneError(
      f"{transforms.where(index)}: the depth {path} cannot be read ({e}); save it again as a PNG "
      "of 16 bits, or remove depth_file_path"
    ) from None
  if undistorted and any(lens(transforms, index).values()):
    view = read_view(transforms, index)
    scale = [depth.shape[1] / view.image.shape[1], depth.shape[0] / view.image.shape[0], 1]
    K = np.diag(scale) @ view.K
    depth, _ = cameras.undistort(depth, K, view.lens, nearest=True)
  crop = cameras.covering_crop(depth.shape[:2], height_width(size))
  rows, columns = (
    ((np.arange(count) + 0.5 + start) * side / new).astype(int)
    for count, start, side, new in zip(
      crop.cut_hw, crop.top_left, crop.hw, crop.resize_hw, strict=True
    )
  )
  return depth[rows][:, columns]


def read_picture(transforms: Transforms, index: int) -> tuple[Float[np.ndarray, "H W 3"], int]:
  """A frame's picture in [-1, 1], upright, and its EXIF orientation. Raises: SceneError."""
  where = transforms.where(index)
  path = transforms.file.parent / _file_path(transforms, index)
  path = path if path.suffix else path.with_suffix(".png")  # as in NeRF's synthetic scenes
  try:
    with Image.open(io.BytesIO(remote.read_bytes(path))) as picture:
      orientation = picture.getexif().get(_EXIF_ORIENTATION, 1)
      return pixels_of(ImageOps.exif_transpose(picture), where), orientation
  except FileNotFoundError:
    raise SceneError(
      f"{where}: there is no picture {path}; put it there or leave the frame out"
    ) from None
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as e:
    raise SceneError(
      f"{where}: the picture {path} cannot be read ({e}); save it again as PNG or JPEG"
    ) from None


def pixels_of(picture: Image.Image, where: str) -> np.ndarray:
  """[H W 3] float32 in [-1, 1]; transparency on white; 16 bit grey keeps its depth."""
  if picture.mode == "F" or picture.mode.startswith("I"):
    grey = np.asarray(picture, np.float32) / 65535
    if picture.mode == "F" or grey.min() < 0 or grey.max() > 1:
      raise SceneError(
        f"{where} has pixels of mode {picture.mode} whose white is unknown; save it in 8 or 16 bits"
      )
    return np.repeat(grey[..., None] * 2 - 1, 3, axis=-1)
  if not picture.has_transparency_data:
    return np.asarray(picture.convert("RGB"), np.float32) / 255 * 2 - 1
  rgba = np.asarray(picture.convert("RGBA"), np.float32) / 255
  rgb, alpha = rgba[..., :3], rgba[..., 3:]
  return (rgb * alpha + (1 - alpha)) * 2 - 1


def choose(
  transforms: Transforms,
  frames: Sequence[int | str],
  fewest: int = FEWEST_VIEWS,
  most: float = MOST_VIEWS,
) -> list[int]:
  """Positions in the file's list, in the user's order; none means all. Raises: SceneError."""
  files = {i: str(frame.get("file_path", "")) for i, frame in enumerate(transforms.frames)}
  chosen = [_frame_number(transforms.file, files, wanted) for wanted in frames] or list(files)
  for index in chosen:
    if chosen.count(index) > 1:
      raise SceneError(f"{transforms.where(index)} was chosen twice; name each frame once")
  if len(chosen) < fewest:
    raise SceneError(
      f"{transforms.file}: {len(chosen)} view was chosen of {len(files)}, but an edit "
      f"needs at least {FEWEST_VIEWS}; choose more frames"
    )
  if len(chosen) > most:
    raise SceneError(
      f"{transforms.file}: {len(chosen)} views are more than the {most} that can be edited "
      "together; choose some frames by index or file name"
    )
  return chosen


def _frame_number(file: object, files: Mapping[int, str], wanted: int | str) -> int:
  """The frame that is meant, among `files` (number -> file_path)."""
  if not isinstance(wanted, str):
    if wanted in files:
      return int(wanted)
    numbers = list(files)
    whole_file = numbers == list(range(len(numbers)))
    known = f"0 to {numbers[-1]}" if whole_file else ", ".join(map(str, numbers))
    raise SceneError(f"{file}: there is no frame {wanted} among its views; choose among {known}")
  paths = {number: epath.Path(path) for number, path in files.items()}
  for spelling in (str, lambda path: path.name, lambda path: path.stem):
    found = [number for number, path in paths.items() if spelling(path) == str(epath.Path(wanted))]
    if len(found) > 1:
      raise SceneError(
        f"{file}: {wanted} names the frames {' and '.join(map(str, found))}; "
        "choose by number or by the whole file_path"
      )
    if found:
      return found[0]
  names = [path.name for path in paths.values()]
  nearest = difflib.get_close_matches(wanted, names, n=1, cutoff=0)[0]
  raise SceneError(f"{file}: there is no picture {wanted} among its views; did you mean {nearest}?")


def _file_path(transforms: Transforms, index: int) -> str:
  file_path = transforms.frames[index].get("file_path")
  if isinstance(file_path, str) and file_path:
    return file_path
  raise SceneError(f"{transforms.where(index)} has no file_path; add its picture or leave it out")


def _names(chosen: Sequence[int], file_paths: Sequence[str]) -> tuple[str, ...]:
  """File names; all with their frame's number in front where two have the same stem."""
  paths = [epath.Path(file_path) for file_path in file_paths]
  if len({path.stem.casefold() for path in paths}) == len(paths):
    return tuple(path.name for path in paths)
  return tuple(f"{index:03d}_{path.name}" for index, path in zip(chosen, paths, strict=True))


def _matrix(value: object, shapes: Sequence[tuple[int, int]], what: str) -> np.ndarray:
  try:
    matrix = np.array(value, np.float64)
  except (TypeError, ValueError):
    raise SceneError(
      f"{what} is {json.dumps(value):.60}, not a matrix of numbers; export the file again"
    ) from None
  if matrix.shape not in shapes:
    wanted = " or ".join("x".join(map(str, shape)) for shape in shapes)
    found = "x".join(map(str, matrix.shape)) or "a number"
    raise SceneError(f"{what} is {found}, wanted {wanted}; export the file again")
  if not np.isfinite(matrix).all():
    bad = matrix[~np.isfinite(matrix)][0]
    raise SceneError(f"{what} holds {bad}; leave this frame out or export the file again")
  return matrix


def _refuse_non_rigid(pose: np.ndarray, transforms: Transforms, index: int, mirrored: bool):
  where, file = transforms.where(index), transforms.file
  rotation, determinant = pose[:3, :3], np.linalg.det(pose[:3, :3])
  deviation = np.abs(rotation.T @ rotation - np.eye(3)).max()
  if np.abs(pose[3] - [0, 0, 0, 1]).max() > 1e-6:
    row = " ".join(f"{value:g}" for value in pose[3])
    raise SceneError(
      f"{where}: the last row of its pose is {row}, wanted 0 0 0 1; "
      "write the camera-to-world matrix row by row"
    )
  if np.linalg.matrix_rank(rotation) < 3:
    raise SceneError(f"{where}: its pose is singular (determinant 0); export the cameras again")
  if determinant < 0 and not mirrored:
    scene = file.parent if file.name == "transforms.json" else file
    raise SceneError(
      f"{where}: its pose is mirrored (determinant {determinant:.3g}, wanted 1); "
      "export right-handed camera-to-world matrices with OpenGL axes; to see which flip it is: "
      f"python -m imx2mx_jax.inspect_scene {scene}"
    )
  if deviation > 1e-3:
    raise SceneError(
      f"{where}: its pose is not rigid (its rotation is {deviation:.2g} off orthonormal, allowed "
      "0.001); export the cameras without scale or shear"
    )


def _refuse_identical_poses(
  transforms: Transforms, chosen: Sequence[int], c2w: Sequence[np.ndarray]
):
  for (first, a), (second, b) in itertools.combinations(zip(chosen, c2w, strict=True), 2):
    if np.allclose(a, b, rtol=1e-9, atol=1e-12):
      raise SceneError(
        f"{transforms.where(second)} has the same pose as frame {first}; leave one of the two out"
      )


def _warn_of_distortion(
  transforms: Transforms, chosen: Sequence[int], views: Sequence[View], authors: bool
):
  displacements = [
    cameras.lens_displacement(view.K, view.image.shape[:2], view.lens) for view in views
  ]
  worst = int(np.argmax(displacements))
  if not displacements[worst]:
    return
  height, width = views[worst].image.shape[:2]
  logging.warning(
    "%s: the lens distortion in the file is ignored, as %s asks; it moves points at the picture's "
    "border by up to %.1f pixels of %d x %d; leave that setting out to have the pictures "
    "undistorted.",
    transforms.where(chosen[worst]),
    "--config.compat=authors" if authors else "--config.scene.undistort=false",
    displacements[worst],
    width,
    height,
  )


def _focal_length(focal: Mapping[str, object], axis: str, side: int, where: str) -> float:
  length, angle = f"fl_{axis}", f"camera_angle_{axis}"
  if length in focal:
    value = _number(focal, length, where)
    if value > 0:
      return value
    raise SceneError(f"{where} has {length} = {value:g}; a focal length is above zero, in pixels")
  value = _number(focal, angle, where)
  if 0 < value < math.pi:
    return side / 2 / math.tan(value / 2)
  raise SceneError(f"{where} has {angle} = {value:g}; it is in radians, between 0 and 3.14")


def _number(holder: Mapping[str, object], key: str, where: str) -> float:
  value = holder[key]
  if isinstance(value, (int, float)) and math.isfinite(value):
    return value
  raise SceneError(f"{where} has {key} = {json.dumps(value):.40}; put a finite number there")
