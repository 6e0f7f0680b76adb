"""Measures finished runs: writes metrics.json into each folder and prints a table.

    python -m imx2mx_jax.evaluate RUN_FOLDER...
    python -m imx2mx_jax.evaluate runs/* --out=table

A run measures itself at its end; again is for captions that it did not have, a mask of what was to
be edited, another CLIP, or a table of many runs. Without captions in the run's settings they are
asked for. A report.html that is there is written anew. Exit codes: 0 done; 1 a mistake in what was
given; 130 stopped.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

import rich.console

from imx2mx_jax import terminal
from imx2mx_jax.errors import ConfigError
from imx2mx_jax.evaluate.runs import Captions


def main(argv: Sequence[str]) -> int:
  """Measures runs; `argv` is the command line with the program's name. Gives the exit code."""
  parser = argparse.ArgumentParser(
    prog="python -m imx2mx_jax.evaluate",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument("folders", nargs="+", metavar="RUN_FOLDER")
  parser.add_argument("--source_caption", default="", help="what the photographs show")
  parser.add_argument("--edited_caption", default="", help="what the edited views should show")
  parser.add_argument("--clip", default="", metavar="FOLDER", help="a converted metric_clip")
  parser.add_argument(
    "--mask", default="", metavar="FOLDER", help="NAME.png for each view, white where to edit"
  )
  parser.add_argument("--out", metavar="STEM", help="writes STEM.md, STEM.csv and STEM.json")
  parser.add_argument("--export-met3r", metavar="FOLDER", help="writes pairs of views for MEt3R")
  given = parser.parse_args(argv[1:])
  try:
    return terminal.exit_code(lambda: _evaluate(given))
  except KeyboardInterrupt:
    print("stopped", file=sys.stderr)
    return 130


def _evaluate(given: argparse.Namespace) -> int:
  from imx2mx_jax.evaluate import measures, met3r, runs, tables  # seconds: --help does without
  from imx2mx_jax.report import page

  opened = [runs.read(folder) for folder in given.folders]
  told = Captions(given.source_caption, given.edited_caption)
  measured = {}
  for run in opened:
    print(f"measuring {run.path}", flush=True)
    captions = _asked(told.filled_by(runs.captions(run)), run)
    options = measures.Options(captions, given.clip, given.mask)
    metrics = measures.measure(run, options)
    measured[run.name if run.name not in measured else str(run.path)] = metrics
    for name, reason in metrics["absent"].items():
      print(f"  no {name}: {reason}")
    if (run.path / page.NAME).exists():
      page.write(run.path)
  rich.console.Console().print(tables.for_terminal(measured))
  try:
    if given.out:
      _write_tables(pathlib.Path(given.out).expanduser(), measured)
    if given.export_met3r:
      print(f"to score the pairs: {met3r.export(opened, given.export_met3r)}")
  except OSError as error:
    raise ConfigError(
      f"{error.filename} cannot be written ({error.strerror}); name another place"
    ) from error
  return 0


def _asked(known: Captions, run: "runs.Run") -> Captions:
  """The captions, asked for where they are not known and a person is there to answer."""
  if known.known or not sys.stdin.isatty():
    return known
  print(f"  {run.settings['instruction']!r} on {', '.join(run.scene.names)}")
  source = known.source or input("  a caption of the photographs (empty: no CLIP scores): ")
  edited = known.edited or (source and input("  a caption of the edited scene: "))
  return Captions(source.strip(), edited.strip())


def _write_tables(stem: pathlib.Path, measured: "dict[str, tables.Metrics]") -> None:
  from imx2mx_jax.evaluate import tables

  stem.parent.mkdir(parents=True, exist_ok=True)
  forms = {"md": tables.markdown, "csv": tables.comma_separated, "json": tables.as_json}
  for ending, written in forms.items():
    file = stem.with_name(f"{stem.name}.{ending}")
    file.write_text(written(measured))
    print(file)


if __name__ == "__main__":
  sys.exit(main(sys.argv))
