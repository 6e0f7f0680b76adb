"""What the page has done: cameras, a preview, an edit, a video. Each is work for a Job.

Nothing is computed here: the commands' own sessions do it, and what they tell is put into words.
"""

import dataclasses
import hashlib
import json
import multiprocessing
import pathlib
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from multiprocessing.connection import Connection

from etils import epath
from PIL import Image

from imx2mx_jax import (
  config,
  edit,
  micro,
  pictures,
  poses,
  run_folder,
  scene,
  scene_check,
  session,
  terminal,
)
from imx2mx_jax.app.worker import Job
from imx2mx_jax.config import ConfigDict, RunConfig
from imx2mx_jax.errors import SceneError, UserError
from imx2mx_jax.render import session as rendering
from imx2mx_jax.render import settings as render_settings
from imx2mx_jax.render.settings import RenderConfig
from imx2mx_jax.resumable import STATE, flat_settings
from imx2mx_jax.shapes import np

MICRO = pathlib.Path(micro.__file__).parent
"""The folder of bundled scenes and models."""

_LOOK = 0.3  # seconds between two looks at whether to stop
_MOST_PACKED = 1_000_000_000  # bytes of a personalised student that is put into a download


@dataclasses.dataclass(frozen=True)
class Wish:
  """What was chosen on the page. views: positions in the scene's file, the reference first."""

  scene: str
  views: tuple[int, ...]
  instruction: str
  text_guidance: float
  image_guidance: float
  seed: int
  mask: str = ""


@dataclasses.dataclass(frozen=True)
class Result:
  """A finished run. views: {name: (photograph as it was edited, edited view)}. packed: a zip."""

  folder: pathlib.Path
  views: dict[str, tuple[np.ndarray, np.ndarray]]
  report: pathlib.Path
  packed: pathlib.Path


def settings(tree: ConfigDict, wish: Wish, out: pathlib.Path, platform: str) -> RunConfig:
  """The run that is wished for. tree: the settings that the page was started with.

  Its folder below `out` is named by all settings, so that the same wish goes on with the same run.
  Raises: ConfigError.
  """
  tree = tree.copy_and_resolve_references()
  tree.scene.path, tree.mask = wish.scene, wish.mask
  tree.scene.frames = ",".join(map(str, wish.views))
  tree.scene.reference = str(wish.views[0]) if wish.views else ""
  tree.instruction, tree.seed = wish.instruction, wish.seed
  tree.teacher.text_guidance = wish.text_guidance
  tree.teacher.image_guidance = wish.image_guidance
  tree.run_dir, tree.preview = "", False
  run = config.resolve(tree, platform)
  content = json.dumps(flat_settings(run), sort_keys=True).encode()
  name = f"{pathlib.Path(run.run_dir).name}-{hashlib.sha256(content).hexdigest()[:8]}"
  return dataclasses.replace(run, run_dir=str(out / name))


def command(argv: Sequence[str], run: RunConfig) -> list[str]:
  """What does the same in a terminal. argv: the settings that the page was started with."""
  frames = ",".join(map(str, run.scene.frames))
  changes = {
    "scene.path": run.scene.path,
    "scene.frames": frames,
    "scene.reference": run.scene.reference,
    "instruction": run.instruction,
    "teacher.text_guidance": run.teacher.text_guidance,
    "teacher.image_guidance": run.teacher.image_guidance,
    "seed": run.seed,
    "mask": run.mask,
    "run_dir": run.run_dir,
  }
  told = [f"--config.{name}={value}" for name, value in changes.items()]
  return ["python", "-m", "imx2mx_jax.main", *argv, *told]


# --- scenes ----------------------------------------------------------------------------------


def cameras(photos: pathlib.Path, out: pathlib.Path, job: Job) -> pathlib.Path | None:
  """Finds the photographs' cameras, where they are not there yet, and gives the scene.

  None where it was stopped. A process of its own does it, for COLMAP's code hears no stop. Raises:
  SceneError.
  """
  if out.exists():
    return out
  context = multiprocessing.get_context("spawn")
  heard, told = context.Pipe(duplex=False)
  with tempfile.TemporaryDirectory(prefix="cameras-") as work:
    search = context.Process(target=_find, args=(photos, out, work, told), daemon=True)
    search.start()
    told.close()  # the process has its own
    try:
      _follow(heard, job)
    finally:
      search.kill()  # it has ended but after a stop
      search.join()
      heard.close()
  if not job.stop.obeyed:
    return out
  for staged in out.parent.glob(f".{out.name}-*"):
    shutil.rmtree(staged)
  return None


def _find(photos: pathlib.Path, out: pathlib.Path, work: str, told: Connection) -> None:
  """Sends what the search tells, and the scene or the error that it ends with."""
  tempfile.tempdir = work
  try:
    poses.find(photos, out, told.send)
    told.send(out)
  except UserError as error:
    told.send(error)


def _follow(heard: Connection, job: Job) -> None:
  """Shows what a search tells until it has ended, or is to stop. Raises: SceneError."""
  while not job.stop.heard:
    if not heard.poll(_LOOK):
      continue
    try:
      said = heard.recv()
    except EOFError:
      raise SceneError("the search for cameras broke off; the terminal says why") from None
    if isinstance(said, UserError):
      raise said
    if isinstance(said, pathlib.Path):
      return
    job.show(line=said.strip())
  job.stop.obeyed = True


def thumbnails(transforms: scene.Transforms, frames: Sequence[int], side: int) -> list[np.ndarray]:
  """The frames' pictures, whole and upright, no longer than `side`. Raises: SceneError."""
  return [_small(scene.read_picture(transforms, frame)[0], side) for frame in frames]


def frames_of(transforms: scene.Transforms, most: int, wished: Sequence[int] = ()) -> list[int]:
  """At most so many of a scene's frames, evenly from its list, and those wished for."""
  count = len(transforms.frames)
  evenly = np.linspace(0, count - 1, min(count, most)).round()
  return sorted({int(i) for i in evenly}.union(wished))


def numbers_of(
  transforms: scene.Transforms, names: Sequence[int | str], reference: Sequence[int | str]
) -> tuple[int, ...]:
  """The frames that are named, the reference first if it is one of them. Raises: SceneError."""
  numbers = scene.choose(transforms, names)
  first = scene.choose(transforms, reference, fewest=1) if reference else []
  return tuple(dict.fromkeys([*(n for n in first if n in numbers), *numbers]))


def doubts(path: pathlib.Path, views: Sequence[int]) -> list[str]:
  """What seems wrong with the cameras, a sentence each. Raises: SceneError."""
  transforms = scene.read_transforms(path)
  return [
    f"{found.what}; {found.evidence}; {found.remedy}"
    for found in scene_check.briefly(transforms, views)
  ]


def _small(pixels: np.ndarray, side: int) -> np.ndarray:
  picture = Image.fromarray(pictures.to_uint8(pixels))
  picture.thumbnail((side, side))
  return np.asarray(picture)


# --- edits -----------------------------------------------------------------------------------


def preview(run: RunConfig, load: session.Loader, job: Job) -> pathlib.Path:
  """Edits the reference view at nine pairs of scales and gives the sheet."""
  job.show(line="editing the reference view at nine pairs of guidance scales")
  return pathlib.Path(session.preview(dataclasses.replace(run, preview=True), load))


def edited(
  run: RunConfig, load: session.Loader, downloads: pathlib.Path, job: Job
) -> Result | None:
  """Edits the scene, or goes on with it. None where it was stopped, to be gone on with."""
  if not run_folder.finished(run):
    job.show(line="reading photographs and weights, editing the reference view")
    session.edit_scene(run, job.stop, load, Telling(job))
  return None if job.stop.obeyed else result(run, downloads)


class Telling:
  """Puts an edit's events into words and pictures for a job."""

  def __init__(self, job: Job):
    self._job = job
    self._first = 0
    self._seconds = 0.0

  def __call__(self, event: edit.Event) -> None:
    match event:
      case edit.Prepared():
        self._first = event.resumed_at
        done = f"going on after {event.resumed_at} of {event.total} iterations"
        line = f"{done if event.resumed_at else 'the reference view is edited'}; compiling"
        share = event.resumed_at / event.total if event.resumed_at else None
        self._job.show(line=line, share=share, pictures=(event.reference,))
      case edit.Progress():
        self._seconds += event.seconds
        pace = self._seconds / (event.step - self._first)
        left = terminal.duration(pace * (event.total - event.step))
        line = f"iteration {event.step} of {event.total}, {left} left"
        self._job.show(line=line, share=event.step / event.total)
      case edit.Snapshot():
        self._job.show(pictures=tuple(event.images))
      case edit.Finished():
        line = "measuring the edit and writing the report"
        self._job.show(line=line, share=1.0, pictures=tuple(event.images))


# --- what is made of a run -------------------------------------------------------------------


def result(run: RunConfig, downloads: pathlib.Path) -> Result:
  """Reads a finished run's pictures and packs its folder. Raises: SceneError."""
  options = {"undistort": run.scene.undistort, "authors": run.compat == "authors"}
  sources = scene.load_scene(run.scene.path, run.scene.frames, size=run.student.hw, **options)
  folder = pathlib.Path(run.run_dir)
  views = {}
  for name, image in zip(sources.names, sources.images, strict=True):
    with Image.open(folder / "edited" / f"{pathlib.Path(name).stem}.png") as picture:
      after = np.asarray(picture)
    before = Image.fromarray(pictures.to_uint8(image))
    views[name] = np.asarray(before.resize(after.shape[1::-1])), after
  return Result(folder, views, folder / "report.html", packed(folder, downloads))


def by_micro_models(student: str) -> bool:
  """Whether the student is the bundled one."""
  return pathlib.Path(student).resolve().is_relative_to(MICRO.resolve())


def video_settings(run: RunConfig, path: str, frames: int, steps: int) -> RenderConfig:
  """A rendering of the run; micro models want no guidance. Raises: ConfigError."""
  options = {"path": path, "frames": frames, "steps": steps}
  options["out"] = pathlib.Path(run.run_dir) / "render" / f"{path}-{frames}-{steps}"
  if by_micro_models(run.student.weights):
    options |= {"guidance": 1, "guidance_second": 1}
  told = [f"--{name}={value}" for name, value in options.items()]
  return render_settings.parse(["render", run.run_dir, *told])


def video(
  wanted: RenderConfig, run: pathlib.Path, downloads: pathlib.Path, job: Job
) -> tuple[pathlib.Path, pathlib.Path] | None:
  """Renders the edited scene along a path, or goes on with it.

  Gives the video and a zip of the run's folder with it; None where it was stopped.
  """
  job.show(line="reading weights, compiling")
  warnings = []

  def tell(progress: rendering.Progress) -> None:
    line = "; ".join([progress.line(), *warnings])
    job.show(line=line, share=progress.share, pictures=progress.images[:1])

  folder = rendering.render_path(wanted, job.stop, tell, warnings.append)
  if job.stop.obeyed:
    return None
  session.write_report(epath.Path(run))  # with the video
  return pathlib.Path(folder) / "video.mp4", packed(run, downloads)


def packed(folder: pathlib.Path, out: pathlib.Path) -> pathlib.Path:
  """A zip of a run's folder, without what only serves to go on, and without a huge student."""
  student = sum(file.stat().st_size for file in (folder / "student").rglob("*") if file.is_file())
  left_out = {STATE} | ({"student"} if student > _MOST_PACKED else set())
  out.mkdir(parents=True, exist_ok=True)
  target, temporary = out / f"{folder.name}.zip", out / f".{folder.name}.tmp"
  with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
    for file in sorted(folder.rglob("*")):
      parts = file.relative_to(folder).parts
      if file.is_file() and not left_out & set(parts) and not file.name.startswith("."):
        archive.write(file, pathlib.PurePath(folder.name, *parts))
  temporary.replace(target)
  return target
