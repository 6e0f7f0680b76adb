"""Writes a converted folder: leaf by leaf, all or nothing."""

import dataclasses
import math
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from convert_weights import disk, names, sources
from convert_weights.names import Assignment, ConversionError
from convert_weights.reader import Model, Part, sha256
from imx2mx_jax import checkpoint, weights

# Orbax holds a checkpoint three times while it writes it. Parts of an eighth keep that under half
# of the network; parts of less than 32 MB are not worth their files.
_PARTS, _SMALLEST_PART = 8, 32 << 20


@dataclasses.dataclass(frozen=True)
class Options:
  """How to store a model.

  dtype: a key of disk.STORED, or "source" for each tensor's own. format: one of weights.FORMATS.
  licence, notice: of somebody's own weights; empty: as `sources` says.
  """

  dtype: str = "float32"
  format: str = "orbax"
  licence: str = ""
  notice: str = ""

  def of(self, part: Part, row: Assignment) -> np.dtype:
    """The dtype in which a parameter is stored."""
    return disk.dtype(self.dtype, part.tensors.dtype(row.released))


def write(model: Model, dst: pathlib.Path, options: Options) -> None:
  """Converts a model into the folder `dst`, which it replaces (see `check_destination`).

  Everything is written beside `dst` and renamed at the end; whatever happens before that leaves
  no trace. Raises ConversionError where the disk is full or cannot be written.
  """
  with disk.all_or_nothing(dst) as folder:
    disk.check_space(folder, sum(sum(_sizes(part, options)) for part in model.parts))
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


def _size(part: Part, row: Assignment, options: Options) -> int:
  return math.prod(row.shape) * options.of(part, row).itemsize


def _sizes(part: Part, options: Options) -> list[int]:
  return [_size(part, row, options) for row in part.rows]


def _leaves(
  part: Part, rows: Iterable[Assignment], options: Options, count: Callable[[int], None]
) -> Iterator[tuple[str, np.ndarray]]:
  """(path, array as it is stored), one at a time."""
  for row in rows:
    for path, array in names.convert((row,), part.tensors.read):
      yield path, disk.stored(array, options.of(part, row), row.released)
      count(_size(part, row, options))


def _write_orbax(part: Part, folder: pathlib.Path, options: Options) -> int:
  """Writes the checkpoints folder/0, folder/1, ... and returns how many there are."""
  groups = _groups(part, options)
  with disk.progress(part.name, _sizes(part, options)) as count:
    for number, rows in enumerate(groups):
      checkpoint.save(folder / str(number), dict(_leaves(part, rows, options, count)))
  return len(groups)


def _groups(part: Part, options: Options) -> list[list[Assignment]]:
  """The rows in order, in groups of about an eighth of the network."""
  sizes = _sizes(part, options)
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
  tensors = {
    f"{part.name}/{row.path}": (options.of(part, row), row.shape)
    for part in model.parts
    for row in part.rows
  }
  with file.open("wb") as stream:
    stream.write(disk.head(tensors, {})[0])
    for part in model.parts:
      with disk.progress(part.name, _sizes(part, options)) as count:
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
