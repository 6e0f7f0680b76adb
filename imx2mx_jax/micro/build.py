"""Trains every micro model from scratch, in order, and gathers them as they are bundled.

    python -m imx2mx_jax.micro.build OUT --jobs=2

Run it from the repository, whose configs/train it follows. Each training has its folder in OUT and
its lines in OUT/NAME.log; a build that was stopped goes on by the same command. --jobs trainings
run at once; on a machine without accelerators each gets its share of the cores. The last line
printed is OUT/bundled, which then holds every model. --short makes it a rehearsal of a few steps.
"""

import concurrent.futures
import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence

from absl import app, flags

from imx2mx_jax import terminal
from imx2mx_jax.errors import ConfigError

_JOBS = flags.DEFINE_integer("jobs", 1, "How many trainings at once.", lower_bound=1)
_SHORT = flags.DEFINE_bool("short", False, "A few steps of each, to see that all fits together.")


@dataclasses.dataclass(frozen=True)
class Stage:
  """One training. config: a file of configs/train.

  after: the stages that must be finished. fields: {setting: value}, where {} is the build's folder.
  """

  config: str
  after: tuple[str, ...]
  fields: Mapping[str, str]


_FROZEN_VAE = {"frozen.vae": "{}/vae/student_vae"}
STAGES = {
  "vae": Stage("vae.py", (), {}),
  "clip": Stage("clip.py", (), {}),
  "teacher": Stage(
    "teacher.py",
    ("vae", "clip"),
    _FROZEN_VAE | {"frozen.text_encoder": "{}/clip/metric_clip"},
  ),
  "controlnet": Stage(
    "controlnet.py",
    ("teacher",),
    {f"frozen.{name}": "{}/teacher/teacher" for name in ("vae", "text_encoder", "unet")},
  ),
  "single": Stage(
    "student.py:single",
    ("vae", "clip"),
    _FROZEN_VAE | {"frozen.image_encoder": "{}/clip/image_encoder"},
  ),
  "student": Stage(
    "student.py",
    ("single",),
    _FROZEN_VAE | {"frozen.image_encoder": "{}/clip/image_encoder", "start": "{}/single/student"},
  ),
}
"""{name: training}."""

BUNDLED = {
  "student_vae": "vae",
  "image_encoder": "clip",
  "metric_clip": "clip",
  "teacher": "teacher",
  "controlnet": "controlnet",
  "student": "student",
}
"""{kind of model: the stage that makes it}."""

_REHEARSAL = {"steps": 4, "batch": 2, "log_every": 2, "save_every": 4, "sample_every": 0}
_REHEARSAL |= {"data.worlds": 40}
_SHARING = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # an accelerator's memory


def main(argv: Sequence[str]) -> int:
  """Builds; gives the exit code."""
  if len(argv) != 2:
    print("error: give one folder to build in", file=sys.stderr)
    return 1
  try:
    return terminal.exit_code(lambda: _build(pathlib.Path(argv[1])))
  except KeyboardInterrupt:  # the trainings have heard it too, and have saved their states
    print("stopped; the same command goes on from here", file=sys.stderr)
    return 130


def _build(out: pathlib.Path) -> int:
  if not pathlib.Path("configs/train/vae.py").exists():
    raise ConfigError(f"{pathlib.Path.cwd()} has no configs/train; run this from the repository")
  out.mkdir(parents=True, exist_ok=True)
  with concurrent.futures.ThreadPoolExecutor(_JOBS.value) as pool:
    _in_order(pool, out)
  bundled = out / "bundled"
  for kind, stage in BUNDLED.items():
    shutil.rmtree(bundled / kind, ignore_errors=True)
    shutil.copytree(out / stage / kind, bundled / kind)
  print(bundled)
  return 0


def _in_order(pool: concurrent.futures.Executor, out: pathlib.Path) -> None:
  """Runs each stage as soon as those before it are finished and a place is free."""
  cores = sorted(os.sched_getaffinity(0))
  shares = [cores[place :: _JOBS.value] or cores for place in range(_JOBS.value)]
  waiting, running, finished = dict(STAGES), {}, set()
  while waiting or running:
    for name in [name for name, stage in waiting.items() if finished.issuperset(stage.after)]:
      if len(running) < _JOBS.value:
        share = shares.pop()
        future = pool.submit(_train, name, waiting.pop(name), out, share)
        running[future] = name, share
    done, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
    for future in done:
      name, share = running.pop(future)
      shares.append(share)
      future.result()
      finished.add(name)


def _train(name: str, stage: Stage, out: pathlib.Path, cores: Sequence[int]) -> None:
  os.sched_setaffinity(0, cores)  # of this thread, and so of the process that it starts
  fields = {"run_dir": out / name, "stored": "float16"}
  fields |= {field: value.format(out) for field, value in stage.fields.items()}
  fields |= _REHEARSAL if _SHORT.value else {}
  arguments = [f"--config.{field}={value}" for field, value in fields.items()]
  command = [sys.executable, "-m", "imx2mx_jax.train", f"--config=configs/train/{stage.config}"]
  log = out / f"{name}.log"
  print(f"{name}: see {log}", flush=True)
  with log.open("a") as file:
    code = subprocess.run([*command, *arguments], stdout=file, stderr=file, env=_SHARING).returncode
  if code:
    raise ConfigError(f"{name} ended with code {code}; see {log}, then run the same command again")


if __name__ == "__main__":
  app.run(lambda argv: sys.exit(main(argv)))
