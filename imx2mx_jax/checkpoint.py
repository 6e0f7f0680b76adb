"""Orbax behind three functions: one flat dict of arrays is one checkpoint folder."""

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from imx2mx_jax.shapes import Params

LAST = "_CHECKPOINT_METADATA"
"""A file of every checkpoint; remote.Copy copies it after the others."""


class CheckpointError(Exception):
  """A checkpoint that cannot be written or read; the message is Orbax's own first line."""


def save(folder: str | os.PathLike, arrays: Mapping[str, np.ndarray | jax.Array]) -> None:
  """Writes {path: array} into a new folder and waits for it.

  Orbax copies and encodes all arrays at once: the call needs up to three times their size.
  Raises CheckpointError where the folder cannot be written (no space, no permission).
  """
  begin(folder, arrays).wait()


def begin(folder: str | os.PathLike, arrays: Mapping[str, np.ndarray | jax.Array]) -> "Saving":
  """Has {path: array} written into a new folder, which appears when it is whole.

  The arrays are copied before this returns: they may be given away to the next step. Raises
  CheckpointError, as Saving.wait does.
  """
  with contextlib.ExitStack() as stack:
    stack.enter_context(_one_voice())
    checkpointer = stack.enter_context(ocp.StandardCheckpointer())
    checkpointer.save(os.path.abspath(folder), dict(arrays))
    return Saving(stack.pop_all())


class Saving:
  """A checkpoint that is being written in the background."""

  def __init__(self, ends: contextlib.ExitStack):
    self._ends = ends

  def wait(self) -> None:
    """Returns when it is written. Raises CheckpointError where it could not be."""
    self._ends.close()


def contents(folder: str | os.PathLike) -> dict[str, jax.ShapeDtypeStruct]:
  """{path: shape and dtype} of what a checkpoint holds, read from its metadata alone."""
  with _one_voice(), ocp.StandardCheckpointer() as checkpointer:
    tree = checkpointer.metadata(os.path.abspath(folder)).item_metadata
    return {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in tree.items()}


def restore(folder: str | os.PathLike, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> Params:
  """Reads {path: array} straight into the dtypes and shardings of `wanted`.

  `wanted` names exactly what the checkpoint holds (see `contents`). Where a leaf has no sharding
  it goes to the first device. Raises CheckpointError where the files are damaged.
  """
  here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  target = {
    path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding or here)
    for path, leaf in wanted.items()
  }
  with _one_voice(), ocp.StandardCheckpointer() as checkpointer:
    return checkpointer.restore(os.path.abspath(folder), target)


@contextlib.contextmanager
def _one_voice() -> Iterator[None]:
  """Turns a failure into one CheckpointError.

  Orbax works in threads: one failing file is logged by each of them, and every other transfer in
  flight complains, now or a moment later, that its event loop is closed. The exception that
  reaches us says it all.
  """
  try:
    with _HUSH:
      yield
  except Exception as error:  # Orbax and TensorStore raise plain Exception and ValueError
    raise CheckpointError(str(error).partition("\n")[0]) from error


class _Hush:
  """Keeps Orbax's threads silent from the first that enters to the last that leaves."""

  def __init__(self):
    self._inside = 0

  def __enter__(self):
    self._inside += 1
    if self._inside > 1:
      return
    self._verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.FATAL)
    if sys.unraisablehook != self._tell:  # which stays after a failure
      self._hook = sys.unraisablehook
      sys.unraisablehook = self._tell

  def __exit__(self, failure: type | None, *_):
    self._inside -= 1
    if self._inside:
      return
    logging.set_verbosity(self._verbosity)
    if failure is None:  # else complaints may still come
      sys.unraisablehook = self._hook

  def _tell(self, event: Any) -> None:
    if "loop is closed" not in str(event.exc_value):
      self._hook(event)


_HUSH = _Hush()
