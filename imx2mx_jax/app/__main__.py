"""Serves a page in the browser: scene, views, instruction, preview, edit, video, download.

    python -m imx2mx_jax.app --out=runs/app

It listens on this machine alone (127.0.0.1) and asks nothing of the network. Settings are those of
an edit: --config=FILE, by default configs/default.py, and --config.FIELD=VALUE; what the page asks
for itself wins. All that is written, uploads included, lies below --out. Ctrl-C ends the page; a
run at work saves its state first and goes on when the same edit is asked for again. Needs the extra
`app`. Exit codes: 1 a mistake in what was given; 130 and 143 stopped.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from imx2mx_jax import __version__, terminal


def main(argv: Sequence[str]) -> int:
  """Serves until it is stopped; `argv` is the command line with the program's name."""
  parser = argparse.ArgumentParser(
    prog="python -m imx2mx_jax.app",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument("--out", metavar="FOLDER", type=pathlib.Path, default="runs/app")
  parser.add_argument("--port", type=int, default=7860)
  parser.add_argument("--frames", type=int, default=48, help="of a video, at first")
  parser.add_argument("--steps", type=int, default=50, help="of sampling, of a video")
  given, settings = parser.parse_known_args(argv[1:])
  return terminal.exit_code(lambda: _serve(given, settings))


def _serve(given: argparse.Namespace, settings: Sequence[str]) -> int:
  print(f"imx2mx_jax {__version__}: a page to try it", flush=True)
  with terminal.Stop() as stop:
    from imx2mx_jax.app import server  # this takes seconds; the first line is out

    server.serve(server.prepared(given.out, settings, given.frames, given.steps), given.port, stop)
    return stop.exit_code


if __name__ == "__main__":
  sys.exit(main(sys.argv))
