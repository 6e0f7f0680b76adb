"""Edits the photographs of a scene by an instruction and writes a run folder.

    python -m imx2mx_jax.main --config=configs/default.py --config.FIELD=VALUE ...

The last line printed is the run folder's path (with --config.preview, the contact sheet's). Ctrl-C
leaves a folder from which the same command goes on. Exit codes: 0 done; 1 a mistake in what was
given, or no room to write; 130 and 143 stopped.
"""

import errno
import sys
from collections.abc import Sequence

from imx2mx_jax import __version__, config, terminal
from imx2mx_jax.errors import UserError


def main(argv: Sequence[str]) -> int:
  """Runs one edit; `argv` is the command line with the program's name. Gives the exit code."""
  if {"-h", "--help"} & set(argv):
    print(f"{__doc__}\nFields and their defaults:\n{config.describe()}")
    return 0
  try:
    settings = config.parse(argv)
    print(f"imx2mx_jax {__version__}: {settings.instruction}", flush=True)
    if settings.preview:
      return _preview(settings)
    with terminal.Stop() as stop:
      return _run(settings, stop)
  except KeyboardInterrupt:  # of a preview, which leaves nothing to go on from
    print("stopped", file=sys.stderr)
    return 130
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
  except OSError as error:
    if error.errno != errno.ENOSPC:
      raise
    print(f"error: the disk is full ({error.filename}); free some space", file=sys.stderr)
  return 1


def _run(settings: config.ConfigDict, stop: terminal.Stop) -> int:
  import jax  # this and what follows take seconds; the first line is out

  from imx2mx_jax import session

  print(session.edit_scene(config.resolve(settings, jax.default_backend()), stop))
  return stop.exit_code


def _preview(settings: config.ConfigDict) -> int:
  import jax

  from imx2mx_jax import session

  print(session.preview(config.resolve(settings, jax.default_backend())))
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv))
