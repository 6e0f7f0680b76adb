"""What a finished run's folder holds, read for a report. Nothing else is read."""

import dataclasses
import json
from typing import Any

from etils import epath
from PIL import Image

from imx2mx_jax import sheets
from imx2mx_jax.errors import ReportError
from imx2mx_jax.shapes import UInt8, np


@dataclasses.dataclass(frozen=True)
class Snapshot:
  """The views after `iteration`, one below the other; tau: the student's timestep there."""

  iteration: int
  tau: int
  picture: UInt8[np.ndarray, "H W 3"]


@dataclasses.dataclass(frozen=True)
class Run:
  """A finished run.

  settings: {"distill.dt": 25, ..}. sessions: version, packages and devices of each start. rows:
  metrics.jsonl. metrics: metrics.json, empty where the run was not measured. heat_maps: the warp
  error of each view, if it is known. videos: {"render/orbit/video.mp4": content, ..}.
  """

  path: epath.Path
  settings: dict[str, Any]
  names: tuple[str, ...]
  sources: UInt8[np.ndarray, "N H W 3"]
  edits: UInt8[np.ndarray, "N H W 3"]
  reference: UInt8[np.ndarray, "h w 3"]
  snapshots: tuple[Snapshot, ...]
  rows: list[dict[str, Any]]
  sessions: list[dict[str, Any]]
  finished: dict[str, Any]
  metrics: dict[str, Any]
  heat_maps: UInt8[np.ndarray, "M Hm Wm 3"]
  notice: str
  videos: dict[str, bytes]

  @property
  def label(self) -> str:
    """The folder's name."""
    return self.path.resolve().name

  @property
  def scene(self) -> str:
    """The scene's name."""
    return epath.Path(self.settings["scene.path"]).name


def read(folder: epath.PathLike) -> Run:
  """Reads a run folder. Raises ReportError where there is no finished run or it is damaged."""
  path = epath.Path(folder).expanduser()
  if not (path / "finished.json").exists():
    raise ReportError(
      f"{path} holds no finished run; give the folder that python -m imx2mx_jax.main printed last"
    )
  try:
    return _read(path)
  except (OSError, ValueError, KeyError) as error:
    raise ReportError(f"{path} is damaged ({error}); run the edit again") from error


def _read(path: epath.Path) -> Run:
  config = json.loads((path / "config.json").read_text())
  names = tuple(config["names"])
  sources, _ = sheets.split_grid(_picture(path / "grid.png"), len(names))
  rows = [json.loads(line) for line in _optional(path / "metrics.jsonl").splitlines()]
  metrics = _measured(path)
  return Run(
    path=path,
    settings=config["settings"],
    names=names,
    sources=sources,
    edits=np.stack([_picture(path / "edited" / f"{epath.Path(x).stem}.png") for x in names]),
    reference=_picture(path / "reference.png"),
    snapshots=_snapshots(path / "snapshots", len(names), {x["iteration"]: x for x in rows}),
    rows=rows,
    sessions=config["sessions"],
    finished=json.loads((path / "finished.json").read_text()),
    metrics=metrics,
    heat_maps=_heat_maps(path, metrics, len(names)),
    notice=(path / "NOTICE").read_text(),
    videos={str(file.relative_to(path)): file.read_bytes() for file in _videos(path)},
  )


def _measured(path: epath.Path) -> dict[str, Any]:
  file = path / "metrics.json"
  try:
    return json.loads(_optional(file) or "{}")
  except ValueError as error:
    raise ReportError(
      f"{file} is damaged ({error}); python -m imx2mx_jax.evaluate {path} writes it anew"
    ) from error


def _optional(file: epath.Path) -> bytes:
  return file.read_bytes() if file.exists() else b""


def _picture(file: epath.Path) -> np.ndarray:
  with file.open("rb") as stream:
    return np.asarray(Image.open(stream).convert("RGB"))


def _heat_maps(path: epath.Path, metrics: dict[str, Any], views: int) -> np.ndarray:
  name = metrics.get("warp", {}).get("map")
  if not name:
    return np.zeros((0, 1, 1, 3), np.uint8)
  return np.stack(np.split(_picture(path / name), views, axis=1))


def _videos(path: epath.Path) -> list[epath.Path]:
  """In the folder itself and where python -m imx2mx_jax.render puts them."""
  return [*path.glob("video.mp4"), *sorted(path.glob("render/*/video.mp4"))]


def _snapshots(folder: epath.Path, views: int, rows: dict[int, dict]) -> tuple[Snapshot, ...]:
  """Of the iterations that the journal knows: after a resumption others may be left over."""
  files = sorted(folder.iterdir()) if folder.exists() else []
  known = {int(file.stem): file for file in files if int(file.stem) in rows}
  below = lambda row: np.concatenate(np.split(row, views, axis=1))
  return tuple(
    Snapshot(iteration, rows[iteration]["tau"], below(_picture(file)))
    for iteration, file in known.items()
  )
