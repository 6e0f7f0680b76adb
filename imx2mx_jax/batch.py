"""Edits a list of scenes and writes a folder with all of them.

    python -m imx2mx_jax.batch --config=configs/default.py --jobs=jobs.jsonl

Each line of the jobs file is an edit: {"scene": "data/bear", "instruction": "make it a panda",
"overrides": {"optim.lr": 5e-5}}, the overrides being optional; all lines are checked before the
first edit begins. They are done one after another, or, with --config.mesh.edit=4, four at a time,
each on its own chips. An edit that fails is noted and the others go on; the same command goes on
where it was stopped, tries again what failed, and leaves alone what is finished. summary.md and
summary.json in the folder (--out, by default runs/ and the jobs file's name) say what became of
each. --host=0 --hosts=2 and --host=1 --hosts=2 share a list between two machines, or processes,
that see the same folder. --config.FIELD=VALUE changes every edit.

The last line printed is the folder's path. Exit codes: 0 all of this host's edits are finished;
1 one failed, or a mistake in what was given; 75 one is in another process's hands or a bucket could
not be reached, so that the same command may do better later; 130 and 143 stopped.
"""

import argparse
import functools
import sys
from collections.abc import Sequence

from etils import epath

from imx2mx_jax import __version__, terminal
from imx2mx_jax.errors import JobsError


def main(argv: Sequence[str]) -> int:
  """Runs a list; `argv` is the command line with the program's name. Gives the exit code."""
  parser = argparse.ArgumentParser(
    prog="python -m imx2mx_jax.batch",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument("--jobs", metavar="FILE", required=True, type=epath.Path)
  parser.add_argument("--out", metavar="FOLDER", type=epath.Path)
  parser.add_argument("--host", type=int, help="this host's number, from 0")
  parser.add_argument("--hosts", type=int, help="how many share the list")
  given, settings = parser.parse_known_args(argv[1:])
  return terminal.exit_code(lambda: _batch(given, [argv[0], *settings]))


def _batch(given: argparse.Namespace, settings: Sequence[str]) -> int:
  print(f"imx2mx_jax {__version__}: the edits of {given.jobs}", flush=True)
  with terminal.Stop() as stop:
    import jax  # this and what follows take seconds; the first line is out

    from imx2mx_jax import compilation, edit, jobs, series, session, weights

    compilation.keep()
    host, hosts = _place(given)
    out = given.out or epath.Path("runs") / given.jobs.stem
    listed = jobs.read(given.jobs, settings, out, jax.default_backend(), session.check)
    load = functools.partial(edit.load_models, load=weights.keeping())
    work = functools.partial(session.edits, load_models=load)
    groups = series.groups(series.share(listed, host, hosts), session.alike)
    records = series.run(listed, groups, out, work, stop)
    print(out)
    return stop.exit_code or series.exit_code(records)


def _place(given: argparse.Namespace) -> tuple[int, int]:
  """This host's number and how many there are."""
  host, hosts = given.host, given.hosts
  if host is None and hosts is None:
    return 0, 1
  if host is None or hosts is None or not 0 <= host < hosts:
    raise JobsError(
      f"--host={host} --hosts={hosts}: give both, as --host=0 --hosts=2 for the first of two"
    )
  return host, hosts


if __name__ == "__main__":
  sys.exit(main(sys.argv))
