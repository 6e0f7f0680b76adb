"""Writes a converted folder: leaf by leaf, all or nothing."""

import contextlib
import dataclasses
import json
import math
import pathlib
import shutil
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator

import jax.numpy as jnp
import numpy as np
import rich.progress

from convert_weights import names, sources
from convert_weights.names import Assignment, ConversionError
from convert_weights.reader import DTYPES, Model, Part, sha256
from imx2mx_jax import checkpoint, weights

AS_SOURCE = "source"
STORED = {"float32": np.float32, "float16": np.float16, "bfloat16": jnp.bfloat16}

# Orbax holds a checkpoint three times while it writes it. Parts of an eighth keep that under half
# of the network; parts of less than 32 MB are not worth their files.
_PARTS, _SMALLEST_PART = 8, 32 << 20


@dataclasses.dataclass(frozen=True)
class Options:
  """How to store a model.

  dtype: a key of STORED, or "source" for each tensor's own. format: one of weights.FORMATS.
  licence, notice: of somebody's own weights; empty: as `sources` says.
  """

  dtype: str = "float32"
  format: str = "orbax"
  licence: str = ""
  notice: str = ""

  def of(self, part: Part, row: Assignment) -> np.dtype:
    """The dtype in which a parameter is stored."""
    return (
      part.tensors.dtype(row.released) if self.dtype == AS_SOURCE else np.dtype(STORED[self.dtype])
    )


def write(model: Model, dst: pathlib.Path, options: Options) -> None:
  """Converts a model into the folder `dst`, which it replaces (see `check_destination`).

  Everything is written beside `dst` and renamed at the end; whatever happens before that leaves
  no trace. Raises ConversionError where the disk is full or cannot be written.
  """
  with _all_or_nothing(dst) as folder:
    _check_space(model, folder, options)
    if options.format == "safetensors":
      _write_safetensors(model, folder / weights.SAFETENSORS, options)
      parts = {part.name: 0 for part in model.parts}
    else:
      parts = {part.name: _write_orbax(part, folder / part.name, options) for part in model.parts}
    if model.tokenizer:
      (folder / weights.TOKENIZER).mkdir()
    for name, file in model.tokenizer.items():
      shutil.copyfile(file, folder / weights.TOKENIZER / name)
    weights.write_info(folder, _info(model, folder, parts, options))


def check_destination(dst: pathlib.Path, force: bool) -> None:
  """Raises ConversionError where `dst` must not be replaced.

  Converted weights are replaced with `force`; a folder that holds something else never is.
  """
  if not dst.exists() or (dst.is_dir() and not any(dst.iterdir())):
    return
  if not (dst / weights.INFO).is_file():
    raise ConversionError(
      f"{dst} exists and is not a folder of converted weights, so it is left alone (with --force "
      "too); give another --dst"
    )
  if not force:
    raise ConversionError(
      f"{dst} holds converted weights already; give --force to replace them, or another --dst"
    )


@contextlib.contextmanager
def _all_or_nothing(dst: pathlib.Path) -> Iterator[pathlib.Path]:
  dst = dst.absolute()
  partial = dst.with_name(f".{dst.name}.partial")
  try:
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    partial.mkdir(parents=True)
    yield partial
    _replace(dst, partial)
  except BaseException as error:
    _sweep(partial)
    if not isinstance(error, OSError | checkpoint.CheckpointError):
      raise
    raise ConversionError(
      f"cannot write {dst} ({error}); nothing is left there; free the disk or give another --dst"
    ) from error


def _sweep(folder: pathlib.Path) -> None:
  """Removes a folder into which threads of a failed checkpoint may still write for a moment."""
  absent = 0
  for _ in range(100):
    shutil.rmtree(folder, ignore_errors=True)
    absent = 0 if folder.exists() else absent + 1
    if absent == 5:
      return
    time.sleep(0.1)


def _replace(dst: pathlib.Path, new: pathlib.Path) -> None:
  if not dst.exists():
    new.rename(dst)
    return
  old = dst.with_name(f".{dst.name}.old")
  dst.rename(old)
  try:
    new.rename(dst)
  except BaseException:
    old.rename(dst)
    raise
  shutil.rmtree(old)


def _size(part: Part, row: Assignment, options: Options) -> int:
  return math.prod(row.shape) * options.of(part, row).itemsize


def _check_space(model: Model, folder: pathlib.Path, options: Options) -> None:
  needed = sum(_size(part, row, options) for part in model.parts for row in part.rows)
  free = shutil.disk_usage(folder).free
  if needed > free:
    raise OSError(f"it takes {needed / 1e9:.2f} GB and the disk has {free / 1e9:.2f} GB left")


@contextlib.contextmanager
def _progress(part: Part, options: Options) -> Iterator[Callable[[int], None]]:
  """Gives a function that counts bytes: a bar on a terminal, one line in a log."""
  total = sum(_size(part, row, options) for row in part.rows)
  print(f"{part.name}: {len(part.rows)} arrays, {total / 1e6:,.0f} MB", flush=True)
  columns = (
    rich.progress.BarColumn(),
    rich.progress.DownloadColumn(),
    rich.progress.TimeRemainingColumn(),
  )
  hidden = not sys.stdout.isatty()
  with rich.progress.Progress(*columns, transient=True, disable=hidden) as bar:
    task = bar.add_task(part.name, total=total)
    yield lambda size: bar.advance(task, size)


def _leaves(
  part: Part, rows: Iterable[Assignment], options: Options, count: Callable[[int], None]
) -> Iterator[tuple[str, np.ndarray]]:
  """(path, array as it is stored), one at a time."""
  for row in rows:
    for path, array in names.convert((row,), part.tensors.read):
      yield path, _stored(array, options.of(part, row), row.released)
      count(_size(part, row, options))


def _stored(array: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
  try:
    with np.errstate(over="raise"):
      return np.asarray(array, dtype, order="C")
  except FloatingPointError as error:
    raise ConversionError(
      f"{name} has numbers too large for {dtype}; give --dtype=bfloat16 or --dtype=float32"
    ) from error


def _write_orbax(part: Part, folder: pathlib.Path, options: Options) -> int:
  """Writes the checkpoints folder/0, folder/1, ... and returns how many there are."""
  groups = _groups(part, options)
  with _progress(part, options) as count:
    for number, rows in enumerate(groups):
      checkpoint.save(folder / str(number), dict(_leaves(part, rows, options, count)))
  return len(groups)


def _groups(part: Part, options: Options) -> list[list[Assignment]]:
  """The rows in order, in groups of about an eighth of the network."""
  sizes = [_size(part, row, options) for row in part.rows]
  limit = max(_SMALLEST_PART, sum(sizes) // _PARTS)
  groups: list[list[Assignment]] = []
  free = 0
  for row, size in zip(part.rows, sizes, strict=True):
    if not groups or size > free:
      groups.append([])
      free = limit
    groups[-1].append(row)
    free -= size
  return groups


def _write_safetensors(model: Model, file: pathlib.Path, options: Options) -> None:
  """Streams one file: the header's length, the header, the tensors' bytes in the header's order."""
  tags = {np.dtype(kind): tag for tag, kind in DTYPES.items()}
  header, end = {}, 0
  for part in model.parts:
    for row in part.rows:
      begin, end = end, end + _size(part, row, options)
      header[f"{part.name}/{row.path}"] = {
        "dtype": tags[options.of(part, row)],
        "shape": row.shape,
        "data_offsets": (begin, end),
      }
  text = json.dumps(header, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
  with file.open("wb") as stream:
    stream.write(struct.pack("<Q", len(text)) + text)
    for part in model.parts:
      with _progress(part, options) as count:
        for _, array in _leaves(part, part.rows, options, count):
          stream.write(array.tobytes())


def _info(
  model: Model, folder: pathlib.Path, parts: dict[str, int], options: Options
) -> weights.ModelInfo:
  print("sha256 of the source", flush=True)
  return weights.ModelInfo(
    kind=model.kind,
    format=options.format,
    networks={
      part.name: weights.Stored(
        shape=part.shape,
        parts=parts[part.name],
        size=weights.stored_size(folder, options.format, part.name),
      )
      for part in model.parts
    },
    source=model.source,
    files={name: sha256(file) for name, file in model.files.items()},
    **_terms(model, options),
  )


def _terms(model: Model, options: Options) -> dict[str, str]:
  if options.licence:
    return {"licence": options.licence, "terms": "", "notice": options.notice}
  shapes = {part.name: part.shape for part in model.parts}
  if source := sources.identify(model.kind, model.repository, shapes):
    terms = f"{source.terms} {source.licence_url}"
    return {"licence": source.licence, "terms": terms, "notice": source.notice}
  return {
    "licence": "unknown",
    "terms": "Weights of another origin: ask whoever made them.",
    "notice": options.notice,
  }
