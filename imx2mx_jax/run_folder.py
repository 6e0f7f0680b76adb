"""The folder of one run: all that it writes, and how a run that was stopped goes on.

    edited/*.png        the result, under the inputs' own names
    transforms.json     their cameras, as load_scene and nerfstudio read them
    sparse/0/           the same as a COLMAP text model, and points, with output.colmap
    grid.png            inputs above edits
    reference.png       the reference view as the student is given it
    config.json         every setting, fingerprints of what was read, versions and devices
    snapshots/*.png     the views side by side on the way there, named by iterations
    report.html         all of this as one page, by imx2mx_jax/report
    metrics.json        how good the result is, by imx2mx_jax/evaluate; warp.png a map of it
    metrics.jsonl       a line for each iteration; events.out.tfevents.* the same for TensorBoard
    state/              what to go on from: <iterations>/ (Orbax), reference.safetensors; without
                        output.state a finished run has none
    student/            the personalised student, a converted folder as in weights.py
    NOTICE              whose weights these are and what their licences ask
    finished.json       written last; a folder that has it is not written again

Every file appears whole or not at all. What cannot be written or resumed is a RunFolderError.
"""

import concurrent.futures
import contextlib
import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import safetensors.numpy
from etils import epath

from imx2mx_jax import (
  __version__,
  checkpoint,
  claims,
  colmap,
  conditions,
  pictures,
  remote,
  sheets,
  weights,
)
from imx2mx_jax.config import KINDS, RunConfig
from imx2mx_jax.errors import RunFolderError, UserError
from imx2mx_jax.journal import Journal
from imx2mx_jax.resumable import STATE, Resumable, flat_settings, read_json
from imx2mx_jax.scene import Scene, transforms_of
from imx2mx_jax.shapes import Params, UInt8, np

_CONFIG, _FINISHED, _PREVIEW = "config.json", "finished.json", "preview.png"
_REFERENCE = f"{STATE}/reference.safetensors"
_FREE = (  # settings that change no edited view, or by rounding alone
  "run_dir",
  "preview",
  "save_every",
  "image_every",
  "source_caption",
  "edited_caption",
  "metric_clip",
  "optim.max_skipped",
  "mesh.edit",
  "mesh.fsdp",
  "output.state",
)
_WEIGHTS = {  # setting: kind of model in that folder
  "teacher.weights": "teacher",
  "teacher.controlnet": "controlnet",
  "student.weights": "student",
  "student.vae": "student_vae",
  "student.image_encoder": "image_encoder",
}
_READ = ("scene.path", *_WEIGHTS)  # settings that count by what lies there
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
_ELSEWHERE = "choose another folder with --config.run_dir=..."


@contextlib.contextmanager
def opened(run: RunConfig) -> Iterator["RunFolder"]:
  """The folder of a run, new or to be resumed; gone again if nothing was written to it.

  Refuses a finished run, one with other settings, a folder of something else, and one that cannot
  be written, or that another process is writing. A preview may be written beside anything.
  """
  path = epath.Path(run.run_dir).expanduser()
  if not run.preview:
    with remote.reaching(path):
      _refuse_other(path, run)
  if not remote.is_remote(path):
    with _here(path, run) as folder:
      yield folder
    return
  with claims.claimed(path) as claim:
    copy = remote.Copy(path)
    copy.fetch()

    def push() -> None:
      claim.check()  # another process's states would be deleted there
      copy.push()

    with _here(epath.Path(copy.path), run, push) as folder:
      try:
        yield folder
      except BaseException:
        with contextlib.suppress(Exception):  # what ended the edit is to be told, not this
          folder.close()
          push()
        raise
      folder.close()
      push()
    if (copy.path / _FINISHED).exists():
      copy.delete()  # many finished edits would fill this machine's disk


@contextlib.contextmanager
def _here(
  path: epath.Path, run: RunConfig, push: Callable[[], None] = lambda: None
) -> Iterator["RunFolder"]:
  """The folder on this machine's disk."""
  made = [folder for folder in (path, *path.parents) if not folder.exists()]
  folder = RunFolder(path, run, push)
  try:
    folder.claim()
    if not run.preview:
      _refuse_other(path, run)  # another process may have finished it in the meantime
    yield folder
  finally:
    folder.close()
    with contextlib.suppress(OSError, ValueError):  # the first that is not empty
      for empty in made:
        empty.rmdir()


def finished(run: RunConfig) -> bool:
  """Whether the run's folder holds its result already. Refuses one with other settings."""
  path = epath.Path(run.run_dir).expanduser()
  with remote.reaching(path):
    if not (path / _FINISHED).exists():
      return False
    _refuse_other_settings(path, run)
  return True


class RunFolder(Resumable):
  """Writes the folder of one run. Made by `opened`.

  path: the folder, or a copy of one in a bucket. step: iterations after which the last state was
  saved. push: brings the copy's changes to the bucket.
  """

  def __init__(self, path: epath.Path, run: RunConfig, push: Callable[[], None]):
    super().__init__(path, run.save_every)
    self._run = run
    self._push = push
    self._pusher = concurrent.futures.ThreadPoolExecutor(1)
    self._pushing: concurrent.futures.Future[None] | None = None
    self._journal: Journal | None = None
    self._claim = contextlib.ExitStack()
    self._claimed: claims.Claim | None = None

  def claim(self) -> None:
    """Makes the folder, proves that it can be written and keeps it for this process."""
    with self._writing():
      self.path.mkdir(parents=True, exist_ok=True)
      if not self._run.preview:
        self._claimed = self._claim.enter_context(claims.claimed(self.path))
        return
      self._write(".writable", b"")
      (self.path / ".writable").unlink()

  def _check_claim(self) -> None:
    with self._writing():
      self._claimed.check()

  def settle(self) -> None:
    """Waits for the state that is being saved, and begins to bring it to the bucket.

    A failure there is told by the next `settle`.
    """
    if self._saving is None:
      return
    self._check_claim()  # another process's states would be deleted
    self._wait_for_push()
    super().settle()
    self._pushing = self._pusher.submit(self._push)

  def _wait_for_push(self) -> None:
    pushing, self._pushing = self._pushing, None
    if pushing:
      pushing.result()

  def saved(
    self, scene: Scene, abstract_state: Callable[[], Any]
  ) -> tuple[dict[str, np.ndarray], Any] | None:
    """The arrays that `begin` was given and the last state (None before the first), or None.

    abstract_state: gives a state of ShapeDtypeStructs. Refuses a run that read another scene or
    other weights.
    """
    if not (self.path / _REFERENCE).exists():
      return None
    before = read_json(self.path / _CONFIG)
    for name, fingerprint in _fingerprints(self._run, scene).items():
      if before["read"].get(name) != fingerprint:
        was, now = before["settings"][name], flat_settings(self._run)[name]
        raise _another_run(self.path, name, was, now)
    arrays = safetensors.numpy.load((self.path / _REFERENCE).read_bytes())
    return arrays, self.last_state(abstract_state())

  def begin(
    self, scene: Scene, reference: UInt8[np.ndarray, "H W 3"], arrays: Mapping[str, np.ndarray]
  ) -> None:
    """Before the first iteration of a run or of its continuation.

    reference: the picture to show. arrays: what `saved` shall give back.
    """
    with self._writing():
      self._write_config(scene)
      self._write("NOTICE", _notice(self._run).encode())
      self._write("reference.png", sheets.png(reference))
      # safetensors writes an array's memory as it lies, whatever its axes are.
      whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
      self._write(_REFERENCE, safetensors.numpy.save(whole))
      self._journal = Journal(self.path, self.step)

  def log(
    self,
    step: int,
    metrics: Mapping[str, np.ndarray],
    images_per_second: float,
    speeds: Mapping[str, float],
  ) -> None:
    """The numbers of a call's iterations, the last of them `step`; arrays have a value for each.

    speeds: further figures of the call, which all its iterations share.
    """
    shared = {name: np.full(len(metrics["loss"]), value) for name, value in speeds.items()}
    with self._writing():
      self._journal.write(step, {**metrics, **shared}, images_per_second)
    self.settle_if_whole()  # so that a bucket has it long before the next one

  def picture(self, step: int, images: UInt8[np.ndarray, "N H W 3"]) -> None:
    """The views as they are now."""
    with self._writing():
      self._journal.picture(step, images)
      self._write(f"snapshots/{step:06}.png", sheets.png(np.concatenate(images, axis=1)))

  def finish(
    self, scene: Scene, images: UInt8[np.ndarray, "N H W 3"], params: Params, seconds: float
  ) -> None:
    """The result. params: of the personalised student; empty where there is none."""
    self._check_claim()
    if self._run.output.state:
      self.settle()
    else:
      super().settle()  # a bucket need not have what is gone in a moment
    with self._writing():
      files = [f"{epath.Path(name).stem}.png" for name in scene.names]
      folders = ["edited", *["images"] * self._run.output.colmap]  # where COLMAP's readers look
      for file, image in zip(files, images, strict=True):
        for folder in folders:
          self._write(f"{folder}/{file}", sheets.png(image))
      self._write_cameras(scene, dict(zip(files, images, strict=True)))
      self._write("grid.png", sheets.png(sheets.grid(pictures.to_uint8(scene.images), images)))
      if params:
        self._write_student(params)
      done = {"iterations": self.step, "seconds": round(seconds, 1), "at": _now()}
      os.sync()  # a machine that stops now must not keep this file and lose others
      self._write(_FINISHED, _json(done))
    if not self._run.output.state:
      with contextlib.suppress(OSError):  # the run is finished all the same
        (self.path / STATE).rmtree(missing_ok=True)

  def _write_cameras(self, scene: Scene, images: dict[str, UInt8[np.ndarray, "H W 3"]]) -> None:
    hw = next(iter(images.values())).shape[:2]
    transforms = transforms_of(scene, [f"edited/{file}" for file in images], hw)
    self._write("transforms.json", _json(transforms))
    if self._run.output.colmap:
      pixels = scene.K * np.array([hw[1], hw[0], 1])[:, None]
      colmap.write(self.path / "sparse" / "0", images, scene.c2w, pixels)

  def write_preview(self, sheet: UInt8[np.ndarray, "H W 3"]) -> epath.Path:
    """Writes a preview's contact sheet and says where."""
    with self._writing():
      self._write(_PREVIEW, sheets.png(sheet))
    return self.path / _PREVIEW

  def close(self) -> None:
    """Closes the journal and lets others have the folder."""
    with contextlib.suppress(RunFolderError):  # whoever closes without settling has failed already
      self.settle()
    with contextlib.suppress(UserError):  # everything is brought there once more
      self._wait_for_push()
    self._pusher.shutdown()
    if self._journal:
      with contextlib.suppress(OSError):  # a full disk was reported when it was written to
        self._journal.close()
      self._journal = None
    self._claim.close()

  def _write_config(self, scene: Scene) -> None:
    file = self.path / _CONFIG
    sessions = read_json(file)["sessions"] if file.exists() else []
    session = {
      "at": _now(),
      "from_iteration": self.step,
      "imx2mx_jax": __version__,
      "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
      "python": platform.python_version(),
      "machine": platform.platform(),
      "devices": [device.device_kind for device in jax.devices()],
    }
    content = {
      "settings": flat_settings(self._run),
      "names": scene.names,
      "frames": scene.frames,
      "file_paths": scene.file_paths,
      "read": _fingerprints(self._run, scene),
      "sessions": [*sessions, session],
    }
    self._write(_CONFIG, _json(content))

  def _write_student(self, params: Params) -> None:
    before = weights.read_info(self._run.student.weights, "student")
    ((name, network),) = before.networks.items()
    folder, temporary = self.path / "student", self.path / ".student.tmp"
    temporary.rmtree(missing_ok=True)
    temporary.mkdir()
    checkpoint.save(temporary / name / "0", params)
    at = pathlib.Path(temporary)
    stored = dataclasses.replace(network, parts=1, size=weights.stored_size(at, "orbax", name))
    source = f"{before.source}, personalised: {self._run.instruction}"
    info = dataclasses.replace(before, format="orbax", networks={name: stored}, source=source)
    weights.write_info(at, info)
    folder.rmtree(missing_ok=True)  # of a run that was killed right here
    temporary.replace(folder)

  @contextlib.contextmanager
  def _writing(self) -> Iterator[None]:
    try:
      yield
    except (OSError, checkpoint.CheckpointError) as error:
      if "No space left" in str(error):
        raise RunFolderError(
          f"{self.path}: the disk is full; free some space, then the same command goes on from the "
          f"last saved state (after {self.step} iterations)"
        ) from error
      reason = getattr(error, "strerror", None) or error
      raise RunFolderError(f"{self.path} cannot be written ({reason}); {_ELSEWHERE}") from error


def _refuse_other(path: epath.Path, run: RunConfig) -> None:
  """Refuses a folder that is finished, that is not a run's, or whose settings are others."""
  if path.exists() and not path.is_dir():
    raise RunFolderError(f"{path} is a file, not a folder; {_ELSEWHERE}")
  if (path / _FINISHED).exists():
    raise RunFolderError(
      f"{path} holds a finished edit (see {path / 'grid.png'}); {_ELSEWHERE}, or delete that one"
    )
  if not (path / _CONFIG).exists():
    names = [entry.name for entry in path.iterdir()] if path.exists() else []
    foreign = [name for name in names if not name.startswith(".") and name != _PREVIEW]
    if foreign:
      raise RunFolderError(f"{path} holds other things than a run ({foreign[0]}); {_ELSEWHERE}")
    return
  _refuse_other_settings(path, run)


def _refuse_other_settings(path: epath.Path, run: RunConfig) -> None:
  before = read_json(path / _CONFIG)["settings"]
  for name, now in flat_settings(run).items():
    if name not in _FREE and name not in _READ and before.get(name) != now:
      raise _another_run(path, name, before.get(name), now)


def _another_run(path: epath.Path, name: str, was: Any, now: Any) -> RunFolderError:
  differs = f"was {was!r} and is {now!r} now" if was != now else "has other content than it had"
  return RunFolderError(
    f"{path} holds a run whose --config.{name} {differs}; go on as it began, or {_ELSEWHERE}"
  )


def _fingerprints(run: RunConfig, scene: Scene) -> dict[str, str]:
  """{setting: sha256 of what was read there}."""
  settings = flat_settings(run)
  infos = {name: (remote.here(settings[name]) / weights.INFO).read_bytes() for name in _kinds(run)}
  cameras = epath.Path(scene.path).read_bytes()
  masks = b"" if scene.masks is None else scene.masks.tobytes()
  read = {"scene.path": cameras + pictures.to_uint8(scene.images).tobytes() + masks} | infos
  if run.teacher.kind == "controlnet":
    read["teacher.condition"] = conditions.content(scene, run.teacher.condition)
  elif run.teacher.kind not in KINDS:
    read["teacher.kind"] = pathlib.Path(run.teacher.kind).read_bytes()
  return {name: hashlib.sha256(content).hexdigest() for name, content in read.items()}


def _kinds(run: RunConfig) -> dict[str, str]:
  """{setting: kind of model} of the models that the run reads."""
  unread = ["student."] * run.teacher_alone
  if run.teacher.kind != "controlnet":
    unread.append("teacher.controlnet")
  return {k: v for k, v in _WEIGHTS.items() if not k.startswith(tuple(unread))}


def _notice(run: RunConfig) -> str:
  parts = ["The pictures and weights in this folder were made with these models.\n"]
  read = [(kind, flat_settings(run)[name]) for name, kind in _kinds(run).items()]
  if weights.is_converted(run.metric_clip):  # without it CLIP measures nothing
    read.append(("metric_clip", run.metric_clip))
  for kind, folder in read:
    info = weights.read_info(folder, kind)
    parts.append(f"{kind}: {info.source}\nlicence: {info.licence}\n{info.terms}\n{info.notice}\n")
  return "\n".join(parts)


def _json(content: Any) -> bytes:
  return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def _now() -> str:
  return datetime.datetime.now().astimezone().isoformat(timespec="seconds")
