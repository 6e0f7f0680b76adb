"""The command as a user runs it, on the bundled micro models, as small as an edit can be."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys

from imx2mx_jax.main import main

REPOSITORY = pathlib.Path(__file__).parents[2]
MICRO = REPOSITORY / "imx2mx_jax" / "micro"
CONFIG = f"--config={REPOSITORY / 'configs' / 'default.py'}"
TOTAL = 12  # iterations
SMALL = {
  "scene.path": MICRO / "scenes" / "scene_05",
  "scene.frames": "2,0",
  "scene.reference": "",
  "instruction": "make it sunset",
  "teacher.size": 24,
  "teacher.steps": 2,
  "student.size": 32,
  "distill.t_max": 999,
  "distill.t_min": 199,
  "distill.dt": 400,
  "distill.iterations_first": 8,
  "distill.iterations": 2,
  "optim.warmup": 2,
  "log_every": 2,
  "save_every": 4,
  "image_every": 6,
  "output.state": True,
}


def arguments(run_dir, **changes) -> list[str]:
  """The command line of a small edit; `scene__path=x` changes --config.scene.path."""
  changes = {name.replace("__", "."): value for name, value in changes.items()}
  fields = SMALL | {"run_dir": run_dir} | changes
  return [CONFIG, *(f"--config.{name}={value}" for name, value in fields.items())]


@contextlib.contextmanager
def started(cache, run_dir, **changes):
  """The command in a process of its own, warnings being errors; ended with the block."""
  process = subprocess.Popen(
    [sys.executable, "-W", "error", "-m", "imx2mx_jax.main", *arguments(run_dir, **changes)],
    cwd=REPOSITORY,
    env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  with process:
    try:
      yield process
    finally:
      process.kill()


def ran(cache, run_dir, **changes) -> list[str]:
  """The lines of a run that ends well."""
  with started(cache, run_dir, **changes) as process:
    lines, error = process.communicate()
    assert (process.returncode, error) == (0, "")
  return lines.splitlines()


def interrupt(process, number: signal.Signals, at: str) -> list[str]:
  """Sends a signal as soon as a line that begins with `at` is out, and gives all lines."""
  lines = []
  for line in process.stdout:
    lines.append(line.rstrip())
    if line.startswith(at):
      process.send_signal(number)
      break
  return lines + process.stdout.read().splitlines()


def refused(capsys, run_dir, **changes) -> str:
  """The one sentence in which the command refuses; it exits with 1 and leaves nothing behind."""
  before = set(run_dir.parent.rglob("*"))
  code = main(["main", *arguments(run_dir, **changes)])
  error = capsys.readouterr().err
  assert code == 1
  assert error.startswith("error: ") and error.endswith("\n") and error.count("\n") == 1, error
  assert set(run_dir.parent.rglob("*")) == before
  return error


def journal(run_dir) -> list[dict]:
  """metrics.jsonl without what depends on the clock."""
  rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
  clock = {"images_per_second", "compile_seconds", "tflops_per_second"}
  return [{k: v for k, v in row.items() if k not in clock} for row in rows]
