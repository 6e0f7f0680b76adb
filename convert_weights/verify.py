"""Compares a converted folder with its source, bit for bit."""

import pathlib

import numpy as np
from safetensors import SafetensorError

from convert_weights.names import ConversionError
from convert_weights.reader import Model, Part
from imx2mx_jax import checkpoint, weights


def verify(model: Model, dst: pathlib.Path) -> tuple[int, int]:
  """Reads everything again; returns how many numbers are equal, and how many of them rounded.

  A parameter that is stored in fewer bits than the source has is compared with the rounded source.
  Raises one ConversionError that lists all that differs, and WeightsError where `dst` is not a
  converted folder of this kind.
  """
  info = weights.read_info(dst, model.kind)
  wrong: list[str] = []
  equal = rounded = 0
  for part in model.parts:
    if part.shape != info.networks[part.name].shape:
      wrong.append(f"{part.name}: {weights.INFO} has another shape than the source")
    for stored, source in _pairs(part, dst, info, wrong):
      equal += stored.size
      rounded += stored.size if np.promote_types(stored.dtype, source) != stored.dtype else 0
  for name, file in model.tokenizer.items():
    copy = dst / weights.TOKENIZER / name
    if not copy.is_file() or copy.read_bytes() != file.read_bytes():
      wrong.append(f"{weights.TOKENIZER}/{name} differs")
  if wrong:
    raise ConversionError(f"{dst} differs from {model.source}:\n" + "\n".join(wrong))
  return equal, rounded


def _pairs(part: Part, dst: pathlib.Path, info: weights.ModelInfo, wrong: list[str]):
  """(a stored array, its source's dtype) for all that are equal; the others go to `wrong`."""
  rows = {row.path: row for row in part.rows}
  try:
    for arrays in weights.read(dst, info, part.name):
      for path, array in arrays.items():
        row, stored = rows.pop(path, None), np.asarray(array)
        if row is None:
          wrong.append(f"{part.name}: {path} is not in the source")
          continue
        source = row(part.tensors.read(row.released))
        if np.asarray(source, stored.dtype).tobytes() == stored.tobytes():
          yield stored, source.dtype
        else:
          wrong.append(f"{part.name}: {path} differs")
  except (checkpoint.CheckpointError, SafetensorError, OSError) as error:
    wrong.append(f"{part.name} cannot be read: {error}")
  wrong += [f"{part.name}: {path} is missing" for path in rows]
