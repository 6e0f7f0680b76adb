import json

import numpy as np
from etils import epath

from imx2mx_jax.journal import METRICS, Journal


def written(folder, step, losses, begin=0):
  journal = Journal(epath.Path(folder), begin)
  journal.write(step, {"loss": np.array(losses, np.float32)}, images_per_second=2.0)
  journal.close()
  return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


def test_iterations_are_numbered_to_the_step_that_was_reached(tmp_path):
  rows = written(tmp_path, 12, [0.5, 0.25])
  assert rows == [
    {"iteration": 11, "loss": 0.5, "images_per_second": 2.0},
    {"iteration": 12, "loss": 0.25, "images_per_second": 2.0},
  ]


def test_what_came_after_the_saved_state_is_dropped_and_a_torn_line_too(tmp_path):
  written(tmp_path, 3, [1, 2, 3])
  with (tmp_path / METRICS).open("a") as file:
    file.write('{"iteration": 4, "lo')
  rows = written(tmp_path, 4, [30, 40], begin=2)
  assert [(row["iteration"], row["loss"]) for row in rows] == [(1, 1), (2, 2), (3, 30), (4, 40)]


def test_numbers_that_json_does_not_know_are_null(tmp_path):
  rows = written(tmp_path, 2, [np.nan, np.inf])
  assert [row["loss"] for row in rows] == [None, None]
