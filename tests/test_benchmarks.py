"""The benchmarks still fit what they measure, as far as their imports go."""

import pathlib
import subprocess
import sys


def test_the_iteration_benchmark_explains_itself():
  run = subprocess.run(
    [sys.executable, "-W", "error", "-m", "benchmarks.iteration", "--help"],
    cwd=pathlib.Path(__file__).parents[1],
    capture_output=True,
    text=True,
  )
  assert run.returncode == 0, run.stderr
  assert "python -m benchmarks.iteration" in run.stdout
