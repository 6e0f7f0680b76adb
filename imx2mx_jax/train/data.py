"""Where batches come from: the micro world, drawn and rendered inside the step, or folders.

A source has a `table`, which lies on the device throughout; `rows`, what a call's steps need from
the host besides (None: nothing); and `batch`, which makes a step's batch of both, inside the
compiled step. Everything follows from the training's seed and the step, whatever came before.
"""

import concurrent.futures
import pathlib
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

from imx2mx_jax.shapes import Array, Key
from imx2mx_jax.train import folders, losses, worlds
from imx2mx_jax.train.settings import TrainConfig


@runtime_checkable
class Source(Protocol):
  """Something to learn from."""

  table: Any

  def rows(self, start: int, count: int) -> Any:
    """From the host: arrays [count, B, ...] for the steps from `start` on, or None."""

  def batch(self, table: Any, rows: Any, key: Key[Array, ""]) -> losses.Batch:
    """One step's batch. rows: one step's, [B, ...]."""

  def sample(self, table: Any, count: int) -> losses.Batch:
    """A batch that is always the same, for sample pictures."""


def prefetched(source: Source, steps: range, most: int) -> Iterator[tuple[int, Any]]:
  """(how many steps, their rows) of each call of at most `most` steps, one call ahead."""
  with concurrent.futures.ThreadPoolExecutor(1) as thread:
    calls = [(start, min(most, steps.stop - start)) for start in steps[::most]]
    submitted = (thread.submit(source.rows, *call) for call in calls)
    ahead = next(submitted, None)
    for _, count in calls:
      now, ahead = ahead, next(submitted, None)
      yield count, now.result()


def open_source(run: TrainConfig, tokenizer: pathlib.Path | None) -> Source:
  """The source that the settings name. tokenizer: its folder, where the model reads texts."""
  if run.data.source == "micro":
    return worlds.MicroWorld(run, tokenizer)
  return folders.open_folder(run, tokenizer)
