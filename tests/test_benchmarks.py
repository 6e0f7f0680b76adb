"""The benchmarks still fit what they measure, as far as their imports go."""

import pathlib
import subprocess
import sys

import pytest


@pytest.mark.parametrize("name", ["iteration", "novel_views"])
def test_a_benchmark_explains_itself(name):
  run = subprocess.run(
    [sys.executable, "-W", "error", "-m", f"benchmarks.{name}", "--help"],
    cwd=pathlib.Path(__file__).parents[1],
    capture_output=True,
    text=True,
  )
  assert run.returncode == 0, run.stderr
  assert f"python -m benchmarks.{name}" in run.stdout
