"""The numbers of a run as they come: metrics.jsonl for programs, TensorBoard events for people."""

import json
import math
import re
import socket
import time
from collections.abc import Mapping

from etils import epath
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from imx2mx_jax import sheets
from imx2mx_jax.shapes import UInt8, np

METRICS = "metrics.jsonl"


class Journal:
  """Continues the metrics of a run after its first `step` iterations; what lies beyond is dropped.

  TensorBoard gets a new file, which tells it to drop the same.
  """

  def __init__(self, folder: epath.Path, step: int):
    file = folder / METRICS
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    kept = folder / f".{METRICS}.tmp"
    kept.write_text("".join(line for line in lines if 0 < _iteration(line) <= step))
    kept.replace(file)
    self._metrics = file.open("a")
    name = f"events.out.tfevents.{time.time_ns() // 1000}.{socket.gethostname()}"
    self._events = RecordWriter((folder / name).open("wb"))
    self._record(Event(file_version="brain.Event:2"))
    self._record(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

  def write(self, step: int, metrics: Mapping[str, np.ndarray], images_per_second: float) -> None:
    """The last iterations of a call, up to number `step`; arrays have a value for each."""
    columns = {name: values.tolist() for name, values in metrics.items()}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    for iteration, row in enumerate(rows, step - len(rows) + 1):
      numbers = {**row, "images_per_second": images_per_second}
      finite = {name: x if math.isfinite(x) else None for name, x in numbers.items()}
      self._metrics.write(json.dumps({"iteration": iteration, **finite}) + "\n")
      values = [Summary.Value(tag=name, simple_value=x) for name, x in numbers.items()]
      self._record(Event(step=iteration, summary=Summary(value=values)))
    self._flush()

  def picture(self, step: int, images: UInt8[np.ndarray, "N H W 3"]) -> None:
    """The views as they are now, side by side, for TensorBoard."""
    row = np.concatenate(images, axis=1)
    image = Summary.Image(
      height=row.shape[0], width=row.shape[1], colorspace=3, encoded_image_string=sheets.png(row)
    )
    self._record(Event(step=step, summary=Summary(value=[Summary.Value(tag="views", image=image)])))
    self._flush()

  def close(self) -> None:
    """Closes both files."""
    self._metrics.close()
    self._events.close()

  def _record(self, event: Event) -> None:
    event.wall_time = time.time()
    self._events.write(event.SerializeToString())

  def _flush(self) -> None:
    self._metrics.flush()
    self._events.flush()


def _iteration(line: str) -> int:
  """The iteration that a line is of; 0 where it was cut off."""
  found = re.match(r'{"iteration": (\d+), .*}$', line)
  return int(found[1]) if found else 0
