"""Cameras for photographs that have none, by pycolmap: who got one, and who shares what with whom.

Points that pairs of photographs share are found by SIFT and verified; global mapping places all
cameras at once, incremental mapping adds those that it left out, or begins anew where the result is
not to be trusted. What is believed of it is decided here, by `Mapping.placed` and `Mapping.doubt`.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from PIL import Image, ImageOps

from imx2mx_jax import colmap, matches
from imx2mx_jax.errors import SceneError
from imx2mx_jax.shapes import Float, np

FEWEST_PHOTOGRAPHS = 3  # two cameras fit whatever they are given
FEWEST_MATCHES = 15  # of a pair, as COLMAP counts it
_FEWEST_POINTS = 20  # that a photograph shares with two others
_FEWEST_IN_ALL = 100
_TOLERATED = 0.003  # median epipolar error of a pair, in parts of the longer side
_ENDINGS = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp"}  # what pycolmap reads
_ORIENTATION, _MODEL, _IFD, _FOCAL_LENGTH = 0x0112, 0x0110, 0x8769, 0x920A  # EXIF's names


@dataclasses.dataclass(frozen=True)
class Pair:
  """Two photographs. matches: those of one geometry. flat: a plane or a mere turn explains them.

  explained: whether the cameras put them on each other's epipolar lines; None without cameras.
  """

  names: tuple[str, str]
  matches: int
  flat: bool
  explained: bool | None


@dataclasses.dataclass(frozen=True)
class Mapped:
  """What came of the photographs `names`.

  points: {photograph with a camera: points that it shares with others}. model: a
  pycolmap.Reconstruction, None where nothing fitted together.
  """

  names: tuple[str, ...]
  points: Mapping[str, int]
  pairs: tuple[Pair, ...]
  model: Any

  @property
  def placed(self) -> tuple[str, ...]:
    """The photographs whose cameras are believed: enough points, and most pairs explained."""
    return tuple(name for name in self.names if self._believed(name))

  @property
  def doubt(self) -> str | None:
    """Why the cameras as a whole are not believed, to follow "they are not written because"."""
    placed, wanted = len(self.placed), max(FEWEST_PHOTOGRAPHS, -(-len(self.names) // 2))
    if placed < wanted:
      return f"{placed} of {len(self.names)} photographs have one, and {wanted} should"
    count = self.model.num_points3D()
    if count < _FEWEST_IN_ALL:
      return f"they rest on {count} points, and {_FEWEST_IN_ALL} are needed"
    return None

  def partners(self, name: str) -> list[tuple[str, Pair]]:
    """The photographs that share points with this one, most first."""
    pairs = sorted((p for p in self.pairs if name in p.names), key=lambda pair: -pair.matches)
    return [(pair.names[pair.names[0] == name], pair) for pair in pairs]

  def _believed(self, name: str) -> bool:
    found = [pair.explained for _, pair in self.partners(name) if pair.explained is not None]
    return self.points.get(name, 0) >= _FEWEST_POINTS and 2 * sum(found) >= len(found)


def photographs(folder: pathlib.Path) -> list[pathlib.Path]:
  """The pictures in a folder, by name. Raises: SceneError."""
  if not folder.is_dir():
    raise SceneError(f"{folder}: there is no such folder; give one with photographs")
  found = sorted(file for file in folder.iterdir() if file.suffix.lower() in _ENDINGS)
  if len(found) < FEWEST_PHOTOGRAPHS:
    raise SceneError(
      f"{folder}: has {len(found)} photographs (JPEG, PNG, TIFF, BMP), and cameras need at "
      f"least {FEWEST_PHOTOGRAPHS}; add more, ten or twenty are better"
    )
  return found


def find_cameras(files: Sequence[pathlib.Path], work: pathlib.Path) -> Mapped:
  """Places the photographs' cameras. work: an empty folder; images/ there has them upright.

  Photographs of one size by one camera at one focal length share their intrinsics. Raises:
  SceneError for a picture that cannot be read.
  """
  pycolmap = colmap.library()
  pycolmap.set_random_seed(0)
  (work / "images").mkdir()
  groups: dict[tuple, list[str]] = {}
  for file in files:
    groups.setdefault(_stage(file, work / "images"), []).append(file.name)
  for names in groups.values():
    pycolmap.extract_features(
      work / "photos.db", work / "images", names, camera_mode=pycolmap.CameraMode.SINGLE
    )
  pycolmap.match_exhaustive(work / "photos.db")
  with pycolmap.Database.open(work / "photos.db") as database:
    pairs = _pairs(database)
  names = tuple(file.name for file in files)
  best = None
  for model in _models(work):
    found = Mapped(names, _points(model), tuple(_judged(pairs, model)), model)
    best = found if best is None or len(found.placed) > len(best.placed) else best
    if len(best.placed) == len(names):
      break
  return best or Mapped(names, {}, tuple(_judged(pairs, None)), None)


def write_straight(mapped: Mapped, work: pathlib.Path, folder: pathlib.Path) -> None:
  """Writes the placed photographs without lens distortion, and their model: images/, sparse/0/.

  work: that of `find_cameras`. folder: one that is there and empty.
  """
  pycolmap = colmap.library()
  model = pycolmap.Reconstruction(mapped.model)
  for image in list(model.images.values()):
    if image.has_pose and image.name not in mapped.placed:
      model.deregister_frame(image.frame_id)
  (work / "believed").mkdir()
  model.write(work / "believed")
  pycolmap.undistort_images(work / "straight", work / "believed", work / "images", jpeg_quality=97)
  straight = pycolmap.Reconstruction(work / "straight" / "sparse")
  (folder / "sparse" / "0").mkdir(parents=True)
  straight.write(folder / "sparse" / "0")
  (folder / "images").mkdir()
  for name in mapped.placed:
    picture = (work / "straight" / "images" / name).read_bytes()
    (folder / "images" / name).write_bytes(picture)


def _stage(file: pathlib.Path, folder: pathlib.Path) -> tuple:
  """Puts a photograph there, upright, and says what makes its camera: size, model, focal length."""
  try:
    with Image.open(file) as picture:
      picture.load()
      exif = picture.getexif()
      size, turned = picture.size, exif.get(_ORIENTATION, 1) != 1
      camera = exif.get(_MODEL), exif.get_ifd(_IFD).get(_FOCAL_LENGTH)
      if turned:
        upright = ImageOps.exif_transpose(picture)
        size = upright.size
        upright.save(folder / file.name, quality=97, exif=upright.getexif())
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
    raise SceneError(
      f"{file}: cannot be read ({error}); save it again as PNG or JPEG, or take it away"
    ) from None
  if not turned:
    (folder / file.name).symlink_to(file.absolute())
  return size, *camera


@dataclasses.dataclass(frozen=True)
class _Matched:
  """A pair's matches that one geometry explains, in pixels of the staged pictures."""

  names: tuple[str, str]
  points: Float[np.ndarray, "2 M 2"]
  flat: bool


def _pairs(database: Any) -> list[_Matched]:
  pycolmap = colmap.library()
  kinds = pycolmap.TwoViewGeometryConfiguration
  flat = (kinds.PLANAR, kinds.PANORAMIC, kinds.PLANAR_OR_PANORAMIC)
  names = {image.image_id: image.name for image in database.read_all_images()}
  points = {number: database.read_keypoints(number)[:, :2] for number in names}
  found = []
  for pair, geometry in zip(*database.read_two_view_geometries(), strict=True):
    ids, rows = pycolmap.pair_id_to_image_pair(pair), geometry.inlier_matches
    if len(rows) >= FEWEST_MATCHES:
      both = np.stack([points[i][row] for i, row in zip(ids, rows.T, strict=True)])
      named = (names[ids[0]], names[ids[1]])
      found.append(_Matched(named, both.astype(np.float64), geometry.config in flat))
  return found


def _models(work: pathlib.Path) -> Iterator[Any]:
  """Reconstructions, each more laborious than the one before."""
  pycolmap = colmap.library()
  here = (work / "photos.db", work / "images")
  at_once = pycolmap.GlobalPipelineOptions(random_seed=0)
  by_and_by = pycolmap.IncrementalPipelineOptions(random_seed=0, min_model_size=FEWEST_PHOTOGRAPHS)
  for folder in ("global", "continued", "incremental"):
    (work / folder).mkdir()
  found = pycolmap.global_mapping(*here, work / "global", at_once)
  yield from found.values()
  if found:
    largest = max(found, key=lambda number: found[number].num_reg_images())
    begun = work / "global" / str(largest)
    more = pycolmap.incremental_mapping(*here, work / "continued", by_and_by, begun)
    yield from more.values()
  yield from pycolmap.incremental_mapping(*here, work / "incremental", by_and_by).values()


def _points(model: Any) -> dict[str, int]:
  return {image.name: image.num_points3D for image in model.images.values() if image.has_pose}


def _judged(pairs: Sequence[_Matched], model: Any) -> Iterator[Pair]:
  images = {image.name: image for image in model.images.values()} if model else {}
  for pair in pairs:
    both = [images.get(name) for name in pair.names]
    has_cameras = all(image is not None and image.has_pose for image in both)
    explained = _explained(pair, both) if has_cameras else None
    yield Pair(pair.names, pair.points.shape[1], pair.flat, explained)


def _explained(pair: _Matched, images: Sequence[Any]) -> bool:
  """Whether the median match lies on the epipolar lines of the cameras found."""
  bottom = [[0.0, 0.0, 0.0, 1.0]]
  c2w = [np.linalg.inv(np.concatenate([i.cam_from_world().matrix(), bottom])) for i in images]
  rays = [i.camera.cam_from_img(points) for i, points in zip(images, pair.points, strict=True)]
  eyes = np.tile(np.eye(3), (2, 1, 1))
  errors = matches.epipolar_errors(np.stack(rays), np.stack(c2w), eyes)
  camera = images[0].camera
  tolerated = max(1.0, _TOLERATED * max(camera.width, camera.height))
  return bool(np.nanmedian(errors) * camera.mean_focal_length() <= tolerated)
