"""What every writer needs: all or nothing, room, progress, and the safetensors format."""

import contextlib
import json
import math
import pathlib
import shutil
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax.numpy as jnp
import numpy as np
import rich.progress

from convert_weights.names import ConversionError, Shape
from convert_weights.reader import DTYPES
from imx2mx_jax import checkpoint

AS_SOURCE = "source"
STORED = {"float32": np.float32, "float16": np.float16, "bfloat16": jnp.bfloat16}


def dtype(wanted: str, own: np.dtype) -> np.dtype:
  """How a number is stored. wanted: a key of STORED, or "source" for its own dtype."""
  return own if wanted == AS_SOURCE else np.dtype(STORED[wanted])


@contextlib.contextmanager
def all_or_nothing(dst: pathlib.Path) -> Iterator[pathlib.Path]:
  """A folder beside `dst` that takes its place at the end, and is gone after a failure.

  Raises ConversionError where the disk is full or cannot be written.
  """
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


def check_space(folder: pathlib.Path, needed: int) -> None:
  """Raises OSError where the disk of a folder has fewer bytes left than are needed."""
  free = shutil.disk_usage(folder).free
  if needed > free:
    raise OSError(f"it takes {needed / 1e9:.2f} GB and the disk has {free / 1e9:.2f} GB left")


@contextlib.contextmanager
def progress(name: str, sizes: Sequence[int]) -> Iterator[Callable[[int], None]]:
  """Gives a function that counts bytes: a bar on a terminal, one line in a log.

  sizes: of the network's arrays, in bytes.
  """
  print(f"{name}: {len(sizes)} arrays, {sum(sizes) / 1e6:,.0f} MB", flush=True)
  columns = (
    rich.progress.BarColumn(),
    rich.progress.DownloadColumn(),
    rich.progress.TimeRemainingColumn(),
  )
  hidden = not sys.stdout.isatty()
  with rich.progress.Progress(*columns, transient=True, disable=hidden) as bar:
    task = bar.add_task(name, total=sum(sizes))
    yield lambda size: bar.advance(task, size)


def head(
  tensors: Mapping[str, tuple[np.dtype, Shape]], metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, int]]:
  """A safetensors file's first bytes, and {name: where in the file the tensor begins}.

  The tensors follow in the order given. metadata: texts for the program that reads the file.
  """
  tags = {np.dtype(kind): tag for tag, kind in DTYPES.items()}
  header: dict = {"__metadata__": dict(metadata)} if metadata else {}
  begins, end = {}, 0
  for name, (kind, shape) in tensors.items():
    begins[name], end = end, end + math.prod(shape) * kind.itemsize
    header[name] = {"dtype": tags[kind], "shape": shape, "data_offsets": (begins[name], end)}
  text = json.dumps(header, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
  first = struct.pack("<Q", len(text)) + text
  return first, {name: len(first) + begin for name, begin in begins.items()}


def stored(array: np.ndarray, kind: np.dtype, name: str) -> np.ndarray:
  """An array as it is stored. Raises ConversionError where its numbers are too large for that."""
  try:
    with np.errstate(over="raise"):
      return np.asarray(array, kind, order="C")
  except FloatingPointError as error:
    raise ConversionError(
      f"{name} has numbers too large for {kind}; give --dtype=bfloat16 or --dtype=float32"
    ) from error
