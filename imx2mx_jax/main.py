"""Edits the photographs of a scene by an instruction and writes a run folder.

    python -m imx2mx_jax.main --config=configs/default.py --config.FIELD=VALUE ...

The last line printed is the run folder's path (with --config.preview, the contact sheet's). Ctrl-C
leaves a folder from which the same command goes on. Exit codes: 0 done; 1 a mistake in what was
given, or no room to write; 75 a bucket could not be reached; 130 and 143 stopped.
"""

import sys
from collections.abc import Sequence

from imx2mx_jax import __version__, config, terminal


def main(argv: Sequence[str]) -> int:
  """Runs one edit; `argv` is the command line with the program's name. Gives the exit code."""
  if {"-h", "--help"} & set(argv):
    print(f"{__doc__}\nFields and their defaults:\n{config.describe()}")
    return 0
  try:
    return terminal.exit_code(lambda: _edit(argv))
  except KeyboardInterrupt:  # of a preview, which leaves nothing to go on from
    print("stopped", file=sys.stderr)
    return 130


def _edit(argv: Sequence[str]) -> int:
  settings = config.parse(argv)
  print(f"imx2mx_jax {__version__}: {settings.instruction}", flush=True)
  if settings.preview:
    return _run(settings, None)
  with terminal.Stop() as stop:
    return _run(settings, stop)


def _run(settings: config.ConfigDict, stop: terminal.Stop | None) -> int:
  import jax  # this and what follows take seconds; the first line is out

  from imx2mx_jax import compilation, session

  compilation.keep()
  run = config.resolve(settings, jax.default_backend())
  if stop is None:
    print(session.preview(run))
    return 0
  print(session.edit_scene(run, stop))
  return stop.exit_code


if __name__ == "__main__":
  sys.exit(main(sys.argv))
