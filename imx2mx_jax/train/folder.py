"""The folder of one training: all that it writes, and how one that was stopped goes on.

<kind>/               the averaged weights, a converted folder as in weights.py, at each save
samples/*.png         sample pictures after so many steps
metrics.jsonl         a line for each call; events.out.tfevents.* the same for TensorBoard
config.json           every setting, fingerprints of the weights that were read
state/                what to go on from: <steps>/ (Orbax)
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from etils import epath

from imx2mx_jax import checkpoint, sheets, weights
from imx2mx_jax.errors import RunFolderError
from imx2mx_jax.journal import Journal
from imx2mx_jax.shapes import UInt8, np
from imx2mx_jax.train.settings import TrainConfig

_CONFIG, _STATE = "config.json", "state"
_FREE = ("run_dir", "steps", "minutes", "save_every", "sample_every")  # may differ on going on
_READ = ("start", "frozen.vae", "frozen.image_encoder", "frozen.text_encoder")
_ELSEWHERE = "choose another folder with --config.run_dir=..."


class TrainFolder:
  """Writes the folder of one training. step: steps after which a state is saved."""

  def __init__(self, run: TrainConfig):
    self.path = epath.Path(run.run_dir).expanduser()
    self.step = 0
    self._run = run
    self._journal: Journal | None = None

  def __enter__(self):
    _refuse_other(self.path, self._run)
    return self

  def __exit__(self, *_):
    if self._journal:
      self._journal.close()

  def saved(self, wanted: Any) -> Any:
    """The last state, or None. wanted: a tree of ShapeDtypeStructs with shardings."""
    if not (self.path / _STATE).exists():
      return None
    steps = [int(entry.name) for entry in (self.path / _STATE).iterdir() if entry.name.isdigit()]
    if not steps:
      return None
    self.step = max(steps)
    folder, flat = self.path / _STATE / str(self.step), _flat(wanted)
    try:
      arrays = checkpoint.restore(folder, flat)
    except checkpoint.CheckpointError as error:
      raise RunFolderError(
        f"{folder} cannot be read ({error}); delete {self.path} and start anew"
      ) from error
    return jax.tree.unflatten(jax.tree.structure(wanted), [arrays[name] for name in flat])

  def begin(self) -> None:
    """Before the first step of a training or of its continuation."""
    with self._writing():
      settings = {"settings": _settings(self._run), "read": _fingerprints(self._run)}
      self._write(_CONFIG, (json.dumps(settings, indent=1) + "\n").encode())
      self._journal = Journal(self.path, self.step)

  def log(self, step: int, figures: Mapping[str, float], images_per_second: float) -> None:
    """The figures of a call, the last step of which was number `step`."""
    columns = {name: np.array([value], np.float64) for name, value in figures.items()}
    with self._writing():
      self._journal.write(step, columns, images_per_second)

  def picture(self, step: int, rows: UInt8[np.ndarray, "rows cols S S 3"]) -> None:
    """Sample pictures as one."""
    count, columns, height, width, _ = rows.shape
    picture = rows.swapaxes(1, 2).reshape(count * height, columns * width, 3)
    with self._writing():
      self._write(f"samples/{step:06}.png", sheets.png(picture))
      self._journal.picture(step, picture[None])

  def due(self, step: int) -> bool:
    """Whether the state after `step` steps should be saved."""
    return step - self.step >= self._run.save_every

  def save(self, step: int, state: Any) -> None:
    """Saves the state after `step` steps; the one before goes when this one is whole."""
    with self._writing():
      checkpoint.save(self.path / _STATE / str(step), _flat(state))
      self.step = step
      for entry in (self.path / _STATE).iterdir():
        if entry.is_dir() and entry.name != str(step):
          entry.rmtree()

  @contextlib.contextmanager
  def _writing(self) -> Iterator[None]:
    try:
      yield
    except (OSError, checkpoint.CheckpointError) as error:
      reason = getattr(error, "strerror", None) or error
      raise RunFolderError(
        f"{self.path} cannot be written ({reason}); the last saved state is the one after "
        f"{self.step} steps"
      ) from error

  def _write(self, name: str, content: bytes) -> None:
    file = self.path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.parent / f".{file.name}.tmp"
    temporary.write_bytes(content)
    temporary.replace(file)


def _refuse_other(path: epath.Path, run: TrainConfig) -> None:
  """Refuses a folder that is not a training's, or whose settings or weights are others."""
  if not (path / _CONFIG).exists():
    if path.exists() and any(not entry.name.startswith(".") for entry in path.iterdir()):
      raise RunFolderError(f"{path} holds other things than a training; {_ELSEWHERE}")
    return
  before = json.loads((path / _CONFIG).read_text())
  for name, now in _settings(run).items():
    was = before["settings"].get(name)
    if name not in (*_FREE, *_READ) and was != now:
      raise RunFolderError(
        f"{path} holds a training whose --config.{name} was {was!r} and is {now!r} now; go on as "
        f"it began, or {_ELSEWHERE}"
      )
  for name, now in _fingerprints(run).items():
    if before["read"].get(name) != now:
      raise RunFolderError(
        f"{path} holds a training whose --config.{name} held other weights; go on as it began, or "
        f"{_ELSEWHERE}"
      )


def _settings(run: TrainConfig) -> dict[str, Any]:
  """{"data.size": 48, ..}, of types that JSON knows."""

  def flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    fields = {}
    for name, value in tree.items():
      inner = flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
      fields |= inner
    return fields

  return flat(json.loads(json.dumps(dataclasses.asdict(run))))


def _fingerprints(run: TrainConfig) -> dict[str, str]:
  """{setting: sha256 of the description of the weights that lie there}."""
  settings = _settings(run)
  files = {name: epath.Path(settings[name]) / weights.INFO for name in _READ if settings[name]}
  return {
    name: hashlib.sha256(file.read_bytes()).hexdigest()
    for name, file in files.items()
    if file.exists()
  }


def _flat(tree: Any) -> dict[str, Any]:
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
