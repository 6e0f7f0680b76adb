"""Writes the report of finished runs: pages for a browser, which need no network.

    python -m imx2mx_jax.report RUN_FOLDER...
    python -m imx2mx_jax.report RUN_FOLDER... --out=compare.html

The first writes report.html into each folder, as the run itself did; again after a measurement, for
one. The second puts runs of the same views beside each other on one page: seeds, guidance scales,
ablations. The pages' paths are printed. Exit codes: 0 done; 1 a mistake in what was given.
"""

import argparse
import sys
from collections.abc import Sequence

from imx2mx_jax import terminal
from imx2mx_jax.report import page


def main(argv: Sequence[str]) -> int:
  """Writes pages; `argv` is the command line with the program's name. Gives the exit code."""
  parser = argparse.ArgumentParser(
    prog="python -m imx2mx_jax.report",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("folders", nargs="+", metavar="RUN_FOLDER")
  parser.add_argument("--out", metavar="FILE", help="one page for all of them")
  given = parser.parse_args(argv[1:])
  return terminal.exit_code(lambda: _report(given.folders, given.out))


def _report(folders: Sequence[str], out: str | None) -> int:
  if out:
    print(page.write_comparison(folders, out))
    return 0
  for folder in folders:
    print(page.write(folder))
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv))
