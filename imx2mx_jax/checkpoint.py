"""Orbax behind three functions: one flat dict of arrays is one checkpoint folder."""

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from imx2mx_jax.shapes import Params


class CheckpointError(Exception):
  """A checkpoint that cannot be written or read; the message is Orbax's own first line."""


def save(folder: str | os.PathLike, arrays: Mapping[str, np.ndarray | jax.Array]) -> None:
  """Writes {path: array} into a new folder and waits for it.

  Orbax copies and encodes all arrays at once: the call needs up to three times their size.
  Raises CheckpointError where the folder cannot be written (no space, no permission).
  """
  with _one_voice(), ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(os.path.abspath(folder), dict(arrays))


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
  verbosity, hook = logging.get_verbosity(), sys.unraisablehook
  logging.set_verbosity(logging.FATAL)
  sys.unraisablehook = lambda event: (
    None if "loop is closed" in str(event.exc_value) else hook(event)
  )
  try:
    yield
  except Exception as error:  # Orbax and TensorStore raise plain Exception and ValueError
    raise CheckpointError(str(error).partition("\n")[0]) from error
  else:
    sys.unraisablehook = hook
  finally:
    logging.set_verbosity(verbosity)
