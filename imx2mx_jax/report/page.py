"""Report pages: one run, or several of one scene, in one file that asks nothing of a network."""

import base64
import functools
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
from etils import epath
from PIL import Image

from imx2mx_jax import config, remote, terminal
from imx2mx_jax.errors import ReportError
from imx2mx_jax.report import measures, plots, runs
from imx2mx_jax.report import pairs as matched
from imx2mx_jax.report.runs import Run
from imx2mx_jax.shapes import UInt8, np

NAME = "report.html"
LARGEST = 10_000_000  # bytes of a page

_SIDES = (1024, 576, 384, 256, 128)  # pixels of the pictures; the first whose page is small enough
_SMALL = 128  # pixels up to which a picture is kept exactly
_THUMBNAIL = 320  # pixels of a picture that is there again in full
_VIDEOS = 3_000_000  # bytes of videos within a page; the others are linked to
_SNAPSHOTS, _PAIRS = 10, 12  # shown at most
_FIELD = re.compile(r"--config\.([\w.]+): .+?  # (.+)")


def write(folder: epath.PathLike) -> epath.Path:
  """Writes a finished run's report into its folder and says where. Raises ReportError."""
  run = runs.read(folder)
  return _write(run.path / NAME, render(run))


def write_comparison(folders: Sequence[epath.PathLike], out: epath.PathLike) -> epath.Path:
  """Writes a page of several finished runs of one scene. Raises ReportError."""
  return _write(epath.Path(out).expanduser(), render_comparison([runs.read(x) for x in folders]))


def render(run: Run) -> str:
  """The page of one run."""
  pairs = measures.pairs(run.metrics)
  drawn = matched.draw(run, pairs[:_PAIRS])
  return _render(
    "run.html",
    [run],
    run=run,
    snapshots=_spread(run.snapshots),
    result=np.concatenate(run.edits),
    pairs=pairs[:_PAIRS],
    drawn=drawn,
    legend=matched.LEGEND,
    more_pairs=len(pairs[_PAIRS:]),
    worst=max([1.0, *(max(pair.error or 0, pair.floor) for pair in pairs)]),
    settings=list(_changed(run.settings)),
    videos=list(_embedded(run.videos)),
    compiling=max([0.0, *(row.get("compile_seconds", 0.0) for row in run.rows)]),
  )


def render_comparison(compared: Sequence[Run]) -> str:
  """The page of several runs. Raises ReportError where they are not of the same views."""
  first = compared[0]
  for run in compared:
    if run.names != first.names:
      raise ReportError(
        f"{run.path} shows {', '.join(run.names)} where {first.path} shows "
        f"{', '.join(first.names)}; give runs of the same views in the same order"
      )
  meanings = _meanings()
  names = [name for name in first.settings if name != "run_dir"]
  values = {name: [_shown(run.settings.get(name, "")) for run in compared] for name in names}
  differing = {name: x for name, x in values.items() if len(set(x)) > 1}
  return _render(
    "compare.html",
    compared,
    differing=[(name, meanings.get(name, ""), x) for name, x in differing.items()],
  )


def _render(template: str, compared: Sequence[Run], **values: Any) -> str:
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader("imx2mx_jax.report"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters |= {"duration": terminal.duration, "date": _date}
  rows = [run.rows for run in compared]
  values |= {
    "runs": compared,
    "measures": measures.lines([run.metrics for run in compared]),
    "loss": plots.curves(rows, "loss", smooth=True) if any(rows) else "",
    "rate": plots.curves(rows, "lr", smooth=False) if any(rows) else "",
    "colours": plots.COLOURS,
    "small": max(compared[0].edits.shape[1:3]) <= _SMALL,
  }
  for side in _SIDES:
    pictures = {
      "picture": functools.partial(_picture, side=side),
      "thumbnail": functools.partial(_picture, side=min(side, _THUMBNAIL)),
    }
    page = environment.get_template(template).render(**values, **pictures)
    if len(page.encode()) <= LARGEST:
      return page
  raise ReportError(f"{len(compared)} runs do not fit into one page; give fewer")


def _picture(image: UInt8[np.ndarray, "H W 3"], side: int) -> str:
  """The picture as a WebP data URI, no side longer than `side`."""
  picture, stream = Image.fromarray(image), io.BytesIO()
  picture.thumbnail((side, side))
  picture.save(stream, "WEBP", quality=88, lossless=max(picture.size) <= _SMALL)
  return _uri("image/webp", stream.getvalue())


def _uri(kind: str, content: bytes) -> str:
  return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _embedded(videos: Mapping[str, bytes]) -> Iterator[tuple[str, str, str]]:
  """Name, size, and data URI of each video; "" where there is no room for it."""
  room = _VIDEOS
  for name, content in videos.items():
    fits = len(content) <= room
    room -= len(content) * fits
    yield name, f"{len(content) / 1e6:.1f} MB", _uri("video/mp4", content) if fits else ""


def _spread(snapshots: Sequence[runs.Snapshot]) -> list[runs.Snapshot]:
  """A few of them, evenly spread, the first and the last among them."""
  count = min(_SNAPSHOTS, len(snapshots))
  return [snapshots[i] for i in np.linspace(0, len(snapshots) - 1, count).round().astype(int)]


def _changed(settings: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
  """Name, meaning, value and default of each setting that is not at its default."""
  defaults, meanings = config.flat(config.default()), _meanings()
  for name, value in settings.items():
    value, default = _shown(value), _shown(defaults.get(name, ""))
    if value != default:
      yield name, meanings.get(name, ""), value, default


def _meanings() -> dict[str, str]:
  return dict(_FIELD.findall(config.describe()))


def _shown(value: Any) -> str:
  """A setting as one types it."""
  if isinstance(value, bool):
    return str(value).lower()
  return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _date(moment: str) -> str:
  return f"{datetime.fromisoformat(moment):%-d %B %Y, %H:%M}"


def _write(file: epath.Path, page: str) -> epath.Path:
  try:
    remote.write_bytes(file, page.encode())
  except OSError as error:
    raise ReportError(
      f"{file} cannot be written ({error.strerror}); give another place with --out=FILE"
    ) from error
  return file
