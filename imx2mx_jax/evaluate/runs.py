"""A finished run as it is measured: its photographs, cameras and edits, at the edits' size."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from etils import epath
from PIL import Image

from imx2mx_jax import pictures, sheets
from imx2mx_jax.errors import RunFolderError
from imx2mx_jax.scene import Scene, load_scene
from imx2mx_jax.shapes import Float, np

METRICS = "metrics.json"

_SAME = 8
"""Of 255: the mean difference up to which two pictures are one, resized twice."""


@dataclasses.dataclass(frozen=True)
class Run:
  """A finished run. settings: as in config.json. edited: in [-1, 1], like the scene's images."""

  path: epath.Path
  settings: Mapping[str, Any]
  scene: Scene
  edited: Float[np.ndarray, "N H W 3"]

  @property
  def name(self) -> str:
    """The folder's own name."""
    return self.path.resolve().name

  @property
  def reading(self) -> dict[str, bool]:
    """How its scene and masks are read."""
    return _reading(self.settings)


@dataclasses.dataclass(frozen=True)
class Captions:
  """What the photographs show, and what the edited views should; "" is not known."""

  source: str = ""
  edited: str = ""

  def filled_by(self, other: "Captions") -> "Captions":
    """With what is not known from another place."""
    return Captions(self.source or other.source, self.edited or other.edited)

  @property
  def known(self) -> bool:
    """Whether both are."""
    return bool(self.source and self.edited)


def read(folder: epath.PathLike) -> Run:
  """Reads a run folder and its scene. Raises RunFolderError and SceneError."""
  path = epath.Path(folder).expanduser()
  if not (path / "finished.json").exists():
    raise RunFolderError(
      f"{path} holds no finished run; give the folder that python -m imx2mx_jax.main printed last"
    )
  try:
    config = json.loads((path / "config.json").read_text())
    settings = config["settings"]
    stems = [epath.Path(name).stem for name in config["names"]]
    edited = np.stack([_picture(path / "edited" / f"{stem}.png") for stem in stems])
  except (OSError, ValueError, KeyError) as error:
    raise RunFolderError(f"{path} is damaged ({error}); run the edit again") from error
  scene = load_scene(
    settings["scene.path"],
    settings["scene.frames"],
    size=edited.shape[1:3],
    **_reading(settings),
  )
  _refuse_other_photographs(path, scene)
  return Run(path, settings, scene, pictures.from_8_bits(edited))


def _refuse_other_photographs(path: epath.Path, scene: Scene) -> None:
  """Refuses a scene whose pictures are not those above the edits in grid.png."""
  file = path / "grid.png"
  if not file.exists():
    return
  were, _ = sheets.split_grid(_picture(file), len(scene.names))
  now, _ = sheets.split_grid(sheets.grid(pictures.to_uint8(scene.images), were), len(were))
  differ = np.abs(now.astype(np.float32) - were).mean(axis=(1, 2, 3)) > _SAME
  if differ.any():
    raise RunFolderError(
      f"{scene.path}: {scene.names[int(differ.argmax())]} is not the picture any more that was "
      f"edited (see {file}); put the scene back as it was, or run the edit again"
    )


def captions(run: Run) -> Captions:
  """What is known of a run: its settings, an earlier measurement, its scene's edits.json."""
  told = Captions(run.settings.get("source_caption", ""), run.settings.get("edited_caption", ""))
  return told.filled_by(_measured_with(run)).filled_by(_of_scene(run))


def _reading(settings: Mapping[str, Any]) -> dict[str, bool]:
  authors = settings["compat"] == "authors"
  return {"undistort": settings.get("scene.undistort", True), "authors": authors}


def _measured_with(run: Run) -> Captions:
  file = run.path / METRICS
  try:
    clip = json.loads(file.read_text()).get("clip", {}) if file.exists() else {}
  except ValueError:  # damaged; this measurement will replace it
    clip = {}
  return Captions(clip.get("source_caption", ""), clip.get("edited_caption", ""))


def _of_scene(run: Run) -> Captions:
  """Of a scene that `python -m imx2mx_jax.micro.scenes` has written."""
  file = epath.Path(run.scene.path).parent / "edits.json"
  if not file.exists():
    return Captions()
  told = json.loads(file.read_text())
  edits = {edit["instruction"]: edit["edited_caption"] for edit in told["edits"]}
  return Captions(told["source_caption"], edits.get(run.settings["instruction"], ""))


def _picture(file: epath.Path) -> np.ndarray:
  with file.open("rb") as stream:
    return np.asarray(Image.open(stream).convert("RGB"))
