"""The time of one iteration of the distillation on the bundled micro models.

    python -m benchmarks.iteration [--iterations=10]

The settings are those of configs/default.py, without the edit of the reference view. Prints the
seconds until the loop is compiled and the seconds per iteration, the fastest of five calls.
"""

import argparse
import itertools
import pathlib

import jax

from benchmarks import machine
from imx2mx_jax import config, edit
from imx2mx_jax.scene import load_scene

CALLS = 5
CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "default.py"


def main() -> None:
  """Prints both times."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--iterations", type=int, default=10, help="of one call")
  count = parser.parse_args().iterations
  print(machine.describe(), flush=True)

  settings = config.parse(["", f"--config={CONFIG}", "--config.distill.reference=source"])
  settings.log_every = count
  settings.image_every = 0
  settings.distill.iterations_first = count * CALLS
  run = config.resolve(settings, jax.default_backend())
  scene = load_scene(run.scene.path, run.scene.frames, size=run.student.size)
  events = edit.edit(run, scene, edit.load_models(run), None)
  next(events)  # all is prepared
  compiling = next(event.seconds for event in events if isinstance(event, edit.Compiled))
  seconds = [event.seconds for event in itertools.islice(events, CALLS)]
  print(
    f"micro models, {len(scene.names)} views: {compiling:.1f} s to compile, "
    f"{min(seconds) / count:.3f} s per iteration (fastest of {CALLS} calls of {count})"
  )


if __name__ == "__main__":
  main()
