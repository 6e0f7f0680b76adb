"""One rendering, from its settings to its folder."""

import dataclasses
import math
import time
from collections.abc import Callable

import jax
from absl import logging
from etils import epath

from imx2mx_jax import paths, terminal
from imx2mx_jax.render import inputs as reading
from imx2mx_jax.render import splats, views
from imx2mx_jax.render.folder import RenderFolder
from imx2mx_jax.render.settings import RenderConfig
from imx2mx_jax.shapes import UInt8, np

_MOSTLY = 0.5  # share of a frame

_SILENCE = 10.0  # seconds without a line, at least, while no frame is finished


@dataclasses.dataclass(frozen=True)
class Progress:
  """How far a rendering is. done: of `total` frames. pace: seconds a step, at best.

  taken, left: steps of this call, and those still to take. images: the frames finished last.
  """

  done: int
  total: int
  taken: int = 0
  left: int = 0
  pace: float = math.inf
  images: tuple[UInt8[np.ndarray, "H W 3"], ...] = ()

  def after(self, event: views.Event) -> "Progress":
    """The same, when this has happened too."""
    if isinstance(event, views.Rendered):
      return dataclasses.replace(self, done=event.done, images=tuple(event.images))
    pace = min(self.pace, event.seconds / event.taken)  # the first steps are compiled first
    return dataclasses.replace(self, taken=self.taken + event.taken, left=event.left, pace=pace)

  @property
  def share(self) -> float:
    """Of this call's steps, from 0 to 1."""
    return self.taken / max(self.taken + self.left, 1)

  def line(self) -> str:
    """In words, with the time left."""
    left = terminal.duration(self.pace * self.left)
    return f"{self.done} of {self.total} frames, {self.pace:.3g} s a step, {left} left"


Watcher = Callable[[Progress], None]


def render_path(
  wanted: RenderConfig,
  stop: terminal.Stop,
  watch: Watcher = lambda progress: None,
  warn: Callable[[str], None] = logging.warning,
) -> epath.Path:
  """Renders a path, or goes on where an earlier call was stopped, and gives the folder.

  stop: once it has heard a signal, the chunk at hand is finished and written. watch: is shown how
  far it is, every few steps and when frames are finished. warn: is told what may disappoint. Raises
  the UserErrors of everything that it reads and writes.
  """
  given = reading.read(wanted)
  path = reading.cameras_of(wanted, given)
  if invented := unseen(given, path):
    warn(invented)
  own = "float32" if jax.default_backend() == "cpu" else "bfloat16"
  wanted = dataclasses.replace(wanted, dtype=wanted.dtype or own)
  models = views.load_models(given.weights, given.hw, wanted.dtype)
  folder = RenderFolder(wanted, given, path)
  try:
    stopped = _frames(wanted, given, path, models, folder, stop, watch)
    if not stopped:
      folder.finish()
      if wanted.export:
        splats.fit(folder.path)
  finally:
    folder.settle()
  return folder.where


def _frames(
  wanted: RenderConfig,
  given: reading.Inputs,
  path: paths.Cameras,
  models: views.Models,
  folder: RenderFolder,
  stop: terminal.Stop,
  watch: Watcher,
) -> bool:
  """Renders what is missing; whether it was stopped on the way."""
  plan = views.plan(wanted, given, len(path[0]))
  total, done = len(path[0]), folder.done()
  if len(done) == total:
    return False
  anchors = folder.last_state(views.abstract_anchors(plan, models, given.hw))
  told = f"{total} frames of {given.hw[1]} x {given.hw[0]} from {len(given.images)} views"
  passes = f"{len(plan.anchors)} anchors, then {len(plan.chunks)} chunks"
  where = f"{passes if plan.anchors else 'one pass'}, on {jax.devices()[0].device_kind}"
  print(f"{told}, {where}; {f'{len(done)} done, ' if done else ''}compiling", flush=True)
  progress, said = Progress(len(done), total), time.monotonic()
  for event in views.render(wanted, given, path, models, anchors, done):
    finished = isinstance(event, views.Rendered)
    if finished:
      folder.write_frames(event.frames, event.images)
      if event.anchors:
        folder.save(1, event.anchors)
    progress = progress.after(event)
    watch(progress)
    if finished or time.monotonic() - said > _SILENCE:
      said = time.monotonic()
      print(progress.line(), flush=True)
    if stop.heard and finished and event.done < total:
      stop.obeyed = True
      print("stopped; the same command goes on from here")
      return True
  return False


def unseen(given: reading.Inputs, path: paths.Cameras) -> str:
  """A sentence on where the path shows what the inputs did not; "" where it does not."""
  inputs = given.c2w, given.K.astype(np.float64)
  lost = np.flatnonzero(paths.unseen(path, inputs, paths.start(*inputs).target) > _MOSTLY)
  if not len(lost):
    return ""
  return (
    f"{len(lost)} of the path's {len(path[0])} frames show mostly what no input saw, the first of "
    f"them frame {lost[0]}; there the model invents. A smaller --extent stays nearer."
  )
