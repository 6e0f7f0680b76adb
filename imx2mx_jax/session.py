"""One run, from its settings to its folder: what the doors have in common."""

import dataclasses
import functools
import time
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence

import jax
import rich.console
from etils import epath
from jax.sharding import Mesh

from imx2mx_jax import (
  colmap,
  edit,
  estimates,
  flops,
  masks,
  run_folder,
  scene_check,
  seats,
  sharding,
  sheets,
  terminal,
)
from imx2mx_jax.config import KINDS, RunConfig, SceneConfig
from imx2mx_jax.errors import ConfigError, DivergedError
from imx2mx_jax.evaluate import measures, runs, tables
from imx2mx_jax.report import page
from imx2mx_jax.scene import Scene, load_scene, read_transforms

_FACTORS = (0.75, 1.0, 1.25)  # of the guidance scales, in a preview


Loader = Callable[..., edit.Models]
"""Takes what edit.load_models takes: a run, and `mesh`."""

Watcher = Callable[[edit.Event], None]


def edit_scene(
  run: RunConfig,
  stop: terminal.Stop,
  load_models: Loader = edit.load_models,
  watch: Watcher = lambda event: None,
) -> epath.Path:
  """Edits a scene, or goes on where an earlier run stopped, measures it, and gives the folder.

  stop: once it has heard a signal, the state is saved and the run ends, resumable. watch: is shown
  every event, and must not keep a state. Raises the UserErrors of everything that it reads and
  writes; what was saved before stays.
  """
  for _ in editing(run, stop, load_models, watch=watch):
    pass
  return epath.Path(run.run_dir).expanduser()


def editing(
  run: RunConfig,
  stop: terminal.Stop,
  load_models: Loader,
  seat: seats.Seat | None = None,
  name: str = "",
  watch: Watcher = lambda event: None,
) -> Iterator[None]:
  """`edit_scene`, pausing wherever other edits at the table of its seat may go on.

  seat: None: an edit by itself. name: begins each line about its iterations.
  """
  place = seat or seats.Alone(edit.make_mesh(run))
  try:
    with run_folder.opened(run) as folder:
      if (yield from _edit(run, folder, stop, load_models, place, name, watch)):
        _measure(folder.path)
        write_report(folder.path)
  finally:
    if seat:
      seat.leave()


def edits(
  runs: Sequence[RunConfig],
  names: Sequence[str],
  stop: terminal.Stop,
  load_models: Loader = edit.load_models,
) -> list[Iterator[None]]:
  """`editing` of some runs: of one by itself, or of several that are `alike`, in one program.

  names: of the edits, where they tell of themselves at the same time.
  """
  if not _shares(runs[0]):
    return [editing(run, stop, load_models) for run in runs]
  table = seats.Together(edit.mesh_of_edits(runs[0]))
  return [
    editing(run, stop, load_models, seat, name)
    for run, seat, name in zip(runs, table.seats, names, strict=False)
  ]


def alike(run: RunConfig) -> tuple[int, Hashable] | None:
  """How many edits can share a program with this one, and what they must have in common with it.

  None: it is edited by itself. Raises what `load_scene` does.
  """
  if not _shares(run):
    return None
  transforms = read_transforms(run.scene.path)
  views = len(run.scene.frames) or len(transforms.frames)
  teacher = dataclasses.replace(run.teacher, text_guidance=0.0, image_guidance=0.0, condition="")
  each = dict.fromkeys(_OWN, "") | {"scene": SceneConfig(), "teacher": teacher, "seed": 0}
  each |= {"save_every": 0, "image_every": 0}
  rows = edit.mesh_of_edits(run).shape[sharding.EDIT]
  return rows, (dataclasses.replace(run, **each), views, bool(run.mask))


def _shares(run: RunConfig) -> bool:
  """Whether other edits can have part in its program: no weights but the student's are its own.

  A mesh that these devices do not make is told by the edit itself, if it is not finished.
  """
  if run.method != "distill" or run.output.polish or run.teacher.kind not in KINDS:
    return False
  try:
    return edit.mesh_of_edits(run).shape[sharding.EDIT] > 1
  except ConfigError:
    return False


_OWN = ("instruction", "source_caption", "edited_caption", "metric_clip", "mask", "run_dir")


def _edit(
  run: RunConfig,
  folder: run_folder.RunFolder,
  stop: terminal.Stop,
  load_models: Loader,
  place: seats.Place,
  name: str,
  watch: Watcher,
) -> Generator[None, None, bool]:
  """Whether the edit has come to its end, and was not stopped."""
  began = time.monotonic()
  with terminal.Iterations(name) as iterations:
    scene, models = _load(run, functools.partial(load_models, mesh=place.mesh), place.mesh)
    wanted = lambda: edit.abstract_state(run, len(scene.names), models, place.mesh)
    saved = folder.saved(scene, wanted)
    going_on = f"going on after {folder.step} iterations"
    print(going_on if saved else "editing the reference view", flush=True)
    events = edit.edit(run, scene, models, saved, place)
    del models  # so that the encoders are freed when they have done their part
    for event in _fitting(run, events):
      watch(event)
      # Obeyed where the state is at hand; at a snapshot it is not.
      stopping = stop.heard and not isinstance(event, edit.Snapshot)
      match event:
        case edit.Waiting():
          yield
          continue
        case edit.Prepared():
          folder.begin(scene, event.reference, event.saved)
          iterations.begin(event.resumed_at, event.total)
        case edit.Traced():
          traced = event
          _foretell(event, edit.total_iterations(run) - folder.step, place.mesh)
          continue
        case edit.Compiled():
          compiled = event
          iterations.compiled(event.seconds, terminal.gigabytes(event.held))
          continue
        case edit.Progress():
          count = len(event.metrics["loss"])
          images = count * len(scene.names) / event.seconds
          speeds = _speeds(traced.flops * count / event.seconds, compiled.seconds, place.mesh)
          folder.log(event.step, event.metrics, images, speeds)
          iterations.show(event.step, event.seconds, float(event.metrics["loss"][-1]))
          lost = 0 < min(run.optim.max_skipped, event.total) <= event.skipped
          last = event.step == event.total
          if (lost or stopping or folder.due(event.step) or last) and event.sound():
            folder.save(event.step, event.state())
          if lost:
            folder.settle()
            raise _diverged(folder, event)
        case edit.Snapshot():
          folder.picture(event.step, event.images)
        case edit.Finished():
          folder.finish(scene, event.images, event.params, time.monotonic() - began)
          return True
      if stopping:
        folder.settle()
        stop.obeyed = True
        print("stopped; the same command goes on from here")
        return False


def _fitting(run: RunConfig, events: Iterator[edit.Event]) -> Iterator[edit.Event]:
  """The events; a device that runs out of memory on the way is told in a sentence."""
  try:
    yield from events
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    first, less = str(error).partition("\n")[0], " or ".join(estimates.smaller(run.memory))
    remedy = f"--config.memory={less} holds less, " if less else ""
    raise ConfigError(
      f"--config.memory={run.memory}: the device has not enough memory for this edit ({first}); "
      f"{remedy}more devices (--config.mesh.fsdp=-1) share it"
    ) from error


def _foretell(traced: edit.Traced, iterations: int, mesh: Mesh) -> None:
  """How long the rest should take, while it is being compiled."""
  seconds, assumed = estimates.duration(traced.flops * iterations, mesh.devices.ravel().tolist())
  each = f"{traced.flops / 1e12:.3g} TFLOP an iteration"
  print(f"then about {terminal.duration(seconds)} ({each}, {assumed})", flush=True)


def _speeds(rate: float, compiling: float, mesh: Mesh) -> dict[str, float]:
  """What the journal says besides. rate: operations in a second."""
  tera, peak = rate / 1e12, flops.peak(mesh.devices.ravel().tolist())
  share = {"share_of_peak": round(tera / peak, 4)} if peak else {}
  return {
    "compile_seconds": round(compiling, 2),
    "tflops_per_second": float(f"{tera:.4g}"),
    **share,
  }


def _measure(folder: epath.Path) -> None:
  """Writes metrics.json and prints a table; whatever happens there, the edit stands."""
  try:
    run = runs.read(folder)
    metrics = measures.measure(run)
  except Exception as error:
    again = f"python -m imx2mx_jax.evaluate {folder}"
    print(f"the edit was not measured ({type(error).__name__}: {error}); {again} tries again")
    return
  rich.console.Console().print(tables.for_terminal({run.name: metrics}))
  for name, reason in metrics["absent"].items():
    print(f"  no {name}: {reason}")


def write_report(folder: epath.Path) -> None:
  """Writes report.html; whatever happens there, the edit stands."""
  try:
    page.write(folder)
  except Exception as error:
    again = f"python -m imx2mx_jax.report {folder}"
    print(f"no report was written ({type(error).__name__}: {error}); {again} tries again")


def check(run: RunConfig) -> None:
  """Raises the mistakes in a run's settings that are quick to find; a finished run has none."""
  if run_folder.finished(run):
    return
  edit.mesh_of_edits(run)
  edit.check_models(run)
  read_transforms(run.scene.path)


def preview(run: RunConfig, load_models: Loader = edit.load_models) -> epath.Path:
  """Edits the reference view at nine pairs of guidance scales and gives the contact sheet.

  The pair of the settings is in the middle, in a red frame. Raises ConfigError for other teachers.
  """
  if run.teacher.kind != "instruct_pix2pix":
    raise ConfigError(
      f"--config.preview: it compares InstructPix2Pix's two guidance scales and the teacher is "
      f"{run.teacher.kind}; --config.method=teacher_only shows what that one does"
    )
  text = [run.teacher.text_guidance * factor for factor in _FACTORS]
  image = [run.teacher.image_guidance * factor for factor in _FACTORS]
  labels = [[f"text {t:.3g}, image {i:.3g}" for i in image] for t in text]
  with run_folder.opened(run) as folder:
    scene, models = _load(run, load_models, edit.make_mesh(run))
    images = edit.preview(run, scene, models, text, image)
    print(f"these settings would use {labels[1][1]}, in the red frame")
    return folder.write_preview(sheets.contact_sheet(images, labels, framed=(1, 1)))


def _warn_of_cameras(run: RunConfig, scene: Scene) -> None:
  """Says in a line what is most suspicious about the scene, if anything is."""
  transforms, undistort = read_transforms(scene.path), run.scene.undistort
  for found in scene_check.briefly(transforms, scene.frames, undistort=undistort)[:1]:
    more = f"python -m imx2mx_jax.inspect_scene {run.scene.path}"
    print(f"warning: {found.what}; {found.evidence}; {found.remedy}; more: {more}", flush=True)


def _diverged(folder: run_folder.RunFolder, event: edit.Progress) -> DivergedError:
  return DivergedError(
    f"{folder.path}: {event.skipped} updates in a row, up to iteration {event.step}, were not "
    f"finite; the last good state, after {folder.step} iterations, is kept; start anew with a "
    "smaller --config.optim.lr or --config.dtype=float32"
  )


def _load(run: RunConfig, load_models: Loader, mesh: Mesh) -> tuple[Scene, edit.Models]:
  if run.output.colmap:
    colmap.library()  # its lack is told before the work, not after it
  options = {"undistort": run.scene.undistort, "authors": run.compat == "authors"}
  scene = load_scene(run.scene.path, run.scene.frames, size=run.student.hw, **options)
  if run.mask:
    scene = masks.masked(scene, run.mask, **options)
  reference, device = scene.names[edit.reference_view(run, scene)], jax.devices()[0].device_kind
  views = f"{len(scene.names)} views of {run.scene.path}, reference {reference}"
  print(f"{views}, on {device}", flush=True)
  if run.compat != "authors":
    _warn_of_cameras(run, scene)
  for line in estimates.check(run, len(scene.names), mesh):
    print(line, flush=True)
  return scene, load_models(run)
