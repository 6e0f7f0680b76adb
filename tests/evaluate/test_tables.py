"""Tables of numbers whose means and intervals are known."""

import io

import numpy as np
import pytest
import rich.console

from imx2mx_jax.evaluate import tables


def run(value: float) -> dict:
  return {"clip": {"cons": value}, "warp": {"mean": value / 10, "floor": 0.01}}


def test_the_interval_of_many_runs_is_that_of_the_normal_distribution():
  values = np.random.default_rng(1).standard_normal(400)
  found = tables.summary(values.tolist())
  assert found.mean == pytest.approx(values.mean())
  width = 1.96 * values.std() / 20
  assert found.low == pytest.approx(values.mean() - width, abs=0.01)
  assert found.high == pytest.approx(values.mean() + width, abs=0.01)


def test_runs_without_a_measure_do_not_count_in_its_mean():
  found = tables.summary([1.0, None, 3.0])
  assert (found.mean, found.runs) == (2, 2)
  assert tables.summary([None]) is None


def test_columns_that_no_run_has_are_left_out():
  heading, lines = tables.rows({"a": run(0.25), "b": {}})
  assert heading == ["run", "Cons", "warp"]
  assert lines[0] == ["a", "0.250", "0.0250 (0.0100)"]
  assert lines[1] == ["b", "", ""]


def test_one_run_has_no_mean():
  assert len(tables.rows({"a": run(0.25)})[1]) == 1


def test_a_mean_of_some_runs_says_of_how_many():
  _, lines = tables.rows({"a": run(0.25), "b": run(0.75), "c": run(0.5), "d": {}})
  assert lines[-2] == ["mean of 4", "0.500, of 3", "0.0500 (0.0100), of 3"]
  assert " to " in lines[-1][1]


def test_few_runs_have_no_interval():
  _, lines = tables.rows({"a": run(0.25), "b": run(0.75)})
  assert lines[-2:] == [["mean of 2", "0.500", "0.0500 (0.0100)"], ["95 % interval", "", ""]]


def test_the_terminals_table_fits_into_80_columns():
  shares = {"2": 0.5, "4": 1.0, "8": 1.0}
  metrics = run(0.25) | {"epipolar": {"passing": shares, "floor_passing": shares}}
  for count in (1, 4, 30):
    console = rich.console.Console(width=80, record=True, file=io.StringIO())
    runs = {f"scene_05-make-it-sunset-{i}": metrics for i in range(count)}
    console.print(tables.for_terminal(runs))
    text = console.export_text()
    assert "…" not in text
    assert text.count("0.50") == {1: 2, 4: 2 * 4 + 4, 30: 4}[count]  # values, floors, summary
