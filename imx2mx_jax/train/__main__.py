"""Trains one of the networks and writes a folder with its weights.

    python -m imx2mx_jax.train --config=configs/train/student.py --config.FIELD=VALUE ...

The other configs there are vae.py, clip.py, teacher.py and controlnet.py. The last line printed is
the folder's path. Ctrl-C leaves a folder from which the same command goes on. Exit codes: 0 done;
1 a mistake in what was given, or no room to write; 130 and 143 stopped.
"""

import sys
from collections.abc import Sequence

from imx2mx_jax import __version__, config, terminal
from imx2mx_jax.train import settings


def main(argv: Sequence[str]) -> int:
  """Runs one training; `argv` is the command line with the program's name. Gives the exit code."""
  if {"-h", "--help"} & set(argv):
    print(f"{__doc__}\nFields and their defaults:\n{settings.describe()}")
    return 0
  return terminal.exit_code(lambda: _train(argv))


def _train(argv: Sequence[str]) -> int:
  tree = config.parse(argv)
  print(f"imx2mx_jax {__version__}: training", flush=True)
  with terminal.Stop() as stop:
    import jax  # this and what follows take seconds; the first line is out

    from imx2mx_jax import compilation
    from imx2mx_jax.train import loop

    compilation.keep()
    print(loop.train(settings.resolve(tree, jax.default_backend()), stop))
    return stop.exit_code


if __name__ == "__main__":
  sys.exit(main(sys.argv))
