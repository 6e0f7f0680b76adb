"""The folder of one training: all that it writes, and how one that was stopped goes on.

<kind>/               the averaged weights, a converted folder as in weights.py, at each save
samples/*.png         sample pictures after so many steps
metrics.jsonl         a line for each call; events.out.tfevents.* the same for TensorBoard
config.json           every setting, fingerprints of the weights that were read
state/                what to go on from: <steps>/ (Orbax)
"""

import contextlib
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping

from etils import epath

from imx2mx_jax import checkpoint, sheets, weights
from imx2mx_jax.errors import RunFolderError
from imx2mx_jax.journal import Journal
from imx2mx_jax.resumable import Resumable, flat_settings
from imx2mx_jax.shapes import UInt8, np
from imx2mx_jax.train.settings import TrainConfig

_CONFIG = "config.json"
_FREE = (  # may differ later
  "run_dir",
  "steps",
  "minutes",
  "save_every",
  "sample_every",
  "sample_text_guidance",
  "sample_image_guidance",
  "remat",
)
_READ = ("start", "frozen.vae", "frozen.image_encoder", "frozen.text_encoder", "frozen.unet")
_ELSEWHERE = "choose another folder with --config.run_dir=..."


class TrainFolder(Resumable):
  """Writes the folder of one training. step: that of the last state that is saved."""

  def __init__(self, run: TrainConfig):
    super().__init__(epath.Path(run.run_dir).expanduser(), run.save_every)
    self._run = run
    self._journal: Journal | None = None

  def __enter__(self):
    _refuse_other(self.path, self._run)
    return self

  def __exit__(self, *_):
    with contextlib.suppress(RunFolderError):  # whoever leaves without settling has failed already
      self.settle()
    if self._journal:
      self._journal.close()

  def begin(self) -> None:
    """Before the first step of a training or of its continuation."""
    with self._writing():
      settings = {"settings": flat_settings(self._run), "read": _fingerprints(self._run)}
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

  def export(self, write: Callable[[pathlib.Path], None]) -> None:
    """The weights so far, which `write` puts into the folder."""
    with self._writing():
      write(pathlib.Path(self.path))

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


def _refuse_other(path: epath.Path, run: TrainConfig) -> None:
  """Refuses a folder that is not a training's, or whose settings or weights are others."""
  if path.exists() and not path.is_dir():
    raise RunFolderError(f"{path} is a file; {_ELSEWHERE}")
  if not (path / _CONFIG).exists():
    if path.exists() and any(not entry.name.startswith(".") for entry in path.iterdir()):
      raise RunFolderError(f"{path} holds other things than a training; {_ELSEWHERE}")
    return
  before = json.loads((path / _CONFIG).read_text())
  if not {"settings", "read"} <= before.keys():
    raise RunFolderError(f"{path} holds other things than a training; {_ELSEWHERE}")
  for name, now in flat_settings(run).items():
    was = before["settings"].get(name)
    if name not in (*_FREE, *_READ) and was != now:
      raise RunFolderError(
        f"{path} holds a training whose --config.{name} was {was!r} and is {now!r} now; go on as "
        f"it began, or {_ELSEWHERE}"
      )
  for name, now in _fingerprints(run).items():
    if before["read"].get(name, now) != now:
      raise RunFolderError(
        f"{path} holds a training whose --config.{name} held other weights; go on as it began, or "
        f"{_ELSEWHERE}"
      )


def _fingerprints(run: TrainConfig) -> dict[str, str]:
  """{setting: sha256 of the description of the weights that lie there}."""
  settings = flat_settings(run)
  files = {name: epath.Path(settings[name]) / weights.INFO for name in _READ if settings[name]}
  return {
    name: hashlib.sha256(file.read_bytes()).hexdigest()
    for name, file in files.items()
    if file.exists()
  }
