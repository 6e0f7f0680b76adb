"""The benchmarks still fit what they measure, as far as their imports go."""

import json
import pathlib
import subprocess
import sys

import pytest


def printed(name, *arguments) -> str:
  """What a benchmark prints."""
  run = subprocess.run(
    [sys.executable, "-W", "error", "-m", f"benchmarks.{name}", *arguments],
    cwd=pathlib.Path(__file__).parents[1],
    capture_output=True,
    text=True,
  )
  assert run.returncode == 0, run.stderr
  return run.stdout


@pytest.mark.parametrize("name", ["gpu_step", "iteration", "micro_quality", "novel_views"])
def test_a_benchmark_explains_itself(name):
  assert f"python -m benchmarks.{name}" in printed(name, "--help")


@pytest.mark.slow
def test_an_iteration_is_measured_on_any_device():
  found = json.loads(printed("gpu_step", "--size=micro", "--iterations=1").splitlines()[-1])
  assert 0 < found["seconds_per_iteration"] < 60
  assert found["minutes"] == pytest.approx(found["seconds_per_iteration"] * 2150 / 60, rel=1e-2)
  assert found["tflops_per_second"] > 0


@pytest.mark.slow
def test_every_saving_saves_something():
  table = printed("savings").split("|---|---|---|\n")[1].splitlines()
  assert len(table) == 6
  assert all(float(row.split("|")[2]) > 0 for row in table)
