"""What is rendered: clean views and their cameras, from a run, a scene or one photograph."""

import dataclasses
import json
import math
from collections.abc import Mapping

from etils import epath

from imx2mx_jax import cameras, edit, paths, remote, scene
from imx2mx_jax import config as run_config
from imx2mx_jax.errors import ConfigError, RunFolderError, SceneError
from imx2mx_jax.render.settings import ALONG_INPUTS, RenderConfig
from imx2mx_jax.shapes import Float, np

_SIZE = 576


@dataclasses.dataclass(frozen=True)
class Weights:
  """Converted folders of the three networks."""

  student: str
  student_vae: str
  image_encoder: str


@dataclasses.dataclass(frozen=True)
class Inputs:
  """The clean views, the path's start first.

  images: in [-1, 1]. c2w: OpenCV axes, float64, in the units of the file. K: in units of the
  picture's sides. out: the folder to write where none is named.
  """

  images: Float[np.ndarray, "n H W 3"]
  c2w: Float[np.ndarray, "n 4 4"]
  K: Float[np.ndarray, "n 3 3"]
  weights: Weights
  out: str

  @property
  def hw(self) -> tuple[int, int]:
    """Height and width of the views and of what is rendered."""
    return self.images.shape[1:3]


def read(wanted: RenderConfig) -> Inputs:
  """The views that the settings name. Raises SceneError, RunFolderError and ConfigError."""
  path = epath.Path(wanted.source).expanduser()
  with remote.reaching(path):
    finished, begun = ((path / name).exists() for name in ("finished.json", "config.json"))
    photograph = _is_photograph(path)
  if photograph and wanted.views:
    raise ConfigError(f"--views={wanted.views}: {path} is one photograph; leave it out")
  if wanted.fov != RenderConfig.fov and path.exists() and not photograph:
    raise ConfigError(
      f"--fov={wanted.fov:g}: {path} has cameras of its own; leave it out, or name one photograph"
    )
  if finished:
    return _of_run(path, wanted)
  if begun:
    raise RunFolderError(
      f"{path} is a run that is not finished; finish it with the command that began it"
    )
  if wanted.student != "original":
    raise RunFolderError(f"{path} is no finished run and has no personalised student; leave it out")
  views = _photograph(path, wanted.fov) if photograph else _of_scene(path, wanted.views)
  name = path.parent.name if path.name == "transforms.json" else path.stem
  hw = wanted.hw or (_SIZE, _SIZE)
  return _framed(views, hw, _weights(wanted.models or "weights"), f"runs/{name}")


def cameras_of(wanted: RenderConfig, inputs: Inputs) -> paths.Cameras:
  """The path's cameras, in the units of the inputs. Raises SceneError."""
  given = inputs.c2w, inputs.K.astype(np.float64)
  if wanted.path == ALONG_INPUTS:
    if len(inputs.c2w) < 2:
      raise SceneError(f"{wanted.source}: --path={ALONG_INPUTS} needs two views; give more")
    return paths.along(given, wanted.frames)
  if wanted.path in paths.PATHS:
    return paths.PATHS[wanted.path](paths.start(*given), wanted.frames, wanted.extent)
  return _wanted_cameras(scene.read_transforms(wanted.path), inputs.hw)


def _is_photograph(path: epath.Path) -> bool:
  return path.is_file() and path.suffix.lower() != ".json"


def _photograph(path: epath.Path, fov: float) -> list[scene.View]:
  frame = {"file_path": path.name, "transform_matrix": np.eye(4).tolist()}
  return [
    scene.read_view(scene.Transforms(path, {"camera_angle_x": math.radians(fov)}, [frame]), 0)
  ]


def _of_scene(path: epath.Path, names: str) -> list[scene.View]:
  transforms = scene.read_transforms(path)
  chosen = scene.choose(transforms, run_config.frame_names(names), fewest=1, most=math.inf)
  return [scene.straightened(scene.read_view(transforms, index)) for index in chosen]


def _of_run(path: epath.Path, wanted: RenderConfig) -> Inputs:
  """A run's edited views. The photographs are not read: they may be gone."""
  own = path / "student"
  if wanted.student == "personalised" and not own.exists():
    raise RunFolderError(f"{path} has no personalised student; take --student=original")
  run, chosen = _edit_of(path)
  transforms = scene.read_transforms(path / "transforms.json")
  views = [scene.read_view(transforms, view) for view in _order(path, run, chosen, wanted)]
  given = Weights(run.student.weights, run.student.vae, run.student.image_encoder)
  weights = _weights(wanted.models) if wanted.models else given
  if wanted.student == "personalised":
    weights = dataclasses.replace(weights, student=str(own))
  hw = wanted.hw or run.student.hw
  return _framed(views, hw, weights, f"{path}/render/")


def _order(
  path: epath.Path, run: run_config.RunConfig, chosen: Mapping[int, str], wanted: RenderConfig
) -> list[int]:
  """A run's views as they are given: those named, else all, the reference first but on a spline.

  chosen: the photographs' file_path by their frame's position in the scene's file.
  """
  place = lambda name: scene.place_of(path, chosen, name)
  if wanted.views:
    return [place(name) for name in run_config.frame_names(wanted.views)]
  all_views = list(range(len(chosen)))
  if wanted.path == ALONG_INPUTS:
    return all_views
  reference = place(edit.reference_frame(run, list(chosen)))
  return [reference, *(view for view in all_views if view != reference)]


def _edit_of(path: epath.Path) -> tuple[run_config.RunConfig, dict[int, str]]:
  """The settings of a finished run, and which frames of its scene it edited."""
  try:
    stated = json.loads((path / "config.json").read_text())
    chosen = dict(zip(stated["frames"], stated["file_paths"], strict=True))
    return run_config.from_flat(stated["settings"]), chosen
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise RunFolderError(
      f"{path / 'config.json'} cannot be read ({error}); run the edit again with this version"
    ) from error


def _weights(folder: str) -> Weights:
  return Weights(*(f"{folder}/{field.name}" for field in dataclasses.fields(Weights)))


def _framed(views: list[scene.View], hw: tuple[int, int], weights: Weights, out: str) -> Inputs:
  images, c2w, K = zip(*(scene.cropped(view, hw) for view in views), strict=True)
  return Inputs(np.stack(images), np.stack(c2w), np.stack(K), weights, out)


def _wanted_cameras(transforms: scene.Transforms, hw: tuple[int, int]) -> paths.Cameras:
  """The cameras of a file, cut to (height, width) as its pictures would be. Raises: SceneError."""
  poses, intrinsics = [], []
  for index in range(len(transforms.frames)):
    stated = _stated_size(transforms, index)
    if any(scene.lens(transforms, index).values()):
      raise SceneError(
        f"{transforms.where(index)} has lens distortion, and what is rendered has none; take it out"
      )
    K = cameras.pixel_intrinsics(scene.intrinsics(transforms, index, stated), stated)
    poses.append(scene.camera_to_world(transforms, index))
    intrinsics.append(cameras.crop_intrinsics(K, cameras.covering_crop(stated, hw)))
  return np.stack(poses), np.stack(intrinsics).astype(np.float64)


def _stated_size(transforms: scene.Transforms, index: int) -> tuple[int, int]:
  """A frame's height and width in pixels. Raises: SceneError."""
  where, (width, height) = transforms.where(index), scene.stated_size(transforms, index)
  if width is None or height is None:
    raise SceneError(f"{where} has no w and h; add the size in pixels that its intrinsics mean")
  if min(width, height) < 1:
    raise SceneError(f"{where} has the size {width} x {height}; both must be 1 or more")
  return int(height), int(width)
