"""Renders a scene along a camera path: SEVA's own sampler, with plain or with edited views.

    python -m imx2mx_jax.render RUN_OR_SCENE --path=orbit --frames=80

RUN_OR_SCENE: the folder of a finished run (its edited views are rendered), a folder with
transforms.json, or one photograph. Paths: orbit, arc, spiral, lemniscate, zoom-in, zoom-out,
dolly-zoom-in, dolly-zoom-out, move-forward, -backward, -left, -right, -up, -down, roll, inputs
(along the input cameras), or a transforms.json of wanted cameras. Writes frames/, transforms.json,
video.mp4 and video.gif; the last line printed is the folder. Ctrl-C leaves a folder from which the
same command goes on. Exit codes: 0 done; 1 a mistake in what was given, or no room to write; 130
and 143 stopped.
"""

import sys
from collections.abc import Sequence

from imx2mx_jax import __version__, terminal
from imx2mx_jax.render import settings


def main(argv: Sequence[str]) -> int:
  """Renders one path; `argv` is the command line with the program's name. Gives the exit code."""
  if {"-h", "--help"} & set(argv):
    print(f"{__doc__}\nOptions and their defaults:\n{settings.describe()}")
    return 0
  return terminal.exit_code(lambda: _render(argv))


def _render(argv: Sequence[str]) -> int:
  wanted = settings.parse(argv)
  print(f"imx2mx_jax {__version__}: {wanted.path} of {wanted.source}", flush=True)
  with terminal.Stop() as stop:
    from imx2mx_jax.render import session  # this takes seconds; the first line is out

    print(session.render_path(wanted, stop))
    return stop.exit_code


if __name__ == "__main__":
  sys.exit(main(sys.argv))
