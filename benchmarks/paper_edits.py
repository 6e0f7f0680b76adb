"""The paper's Table 1: its 20 edits, or any list of edits, run, measured and put beside the paper.

    python -m benchmarks.paper_edits OUT [--config.FIELD=VALUE ...]
    python -m benchmarks.paper_edits OUT --jobs=jobs.jsonl --config=configs/default.py

The first needs the paper's scenes in data/ and the converted weights of configs/paper.py; --jobs
takes a list as `python -m imx2mx_jax.batch` does, which runs either. The same command goes on where
it was stopped. OUT gets a folder for each edit and

    edits.md, .csv, .json    every measure of every edit, means, 95 % bootstrap intervals
    table1.md                the paper's table with a line for these edits

Exit code: that of the batch; the tables are of the edits that are finished.
"""

import argparse
import json
import pathlib
import runpy
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from imx2mx_jax import batch, config
from imx2mx_jax.evaluate import tables

PAPER = pathlib.Path(__file__).parents[1] / "configs" / "paper.py"
TABLE_1 = {  # of the paper, over 20 edits: Cons, Sim, Dir
  "Instruct-NeRF2NeRF": (0.034, 0.196, 0.105),
  "Instruct-GS2GS": (0.314, 0.253, 0.169),
  "Text2Video-Zero": (0.310, 0.251, 0.159),
  "DGE": (0.287, 0.256, 0.182),
  "InstructMix2Mix": (0.342, 0.258, 0.173),
}
_TRIO = ("clip.cons", "clip.sim", "clip.dir")
_OF_A_LINE = {"scene.path": "scene", "instruction": "instruction"}


def papers_jobs() -> Iterator[dict[str, Any]]:
  """The lines of a jobs file with what each of the paper's edits sets."""
  file = runpy.run_path(str(PAPER))
  defaults = config.flat(config.default())
  for name in file["EDITS"]:
    settings = config.flat(file["get_config"](name))
    changed = {k: v for k, v in settings.items() if v != defaults[k] and k != "run_dir"}
    line = {key: changed.pop(field) for field, key in _OF_A_LINE.items()}
    yield {**line, "overrides": changed}


def measured(out: pathlib.Path) -> dict[str, tables.Metrics]:
  """{folder's name: metrics.json} of the finished edits that summary.json lists."""
  listed = [edit["folder"] for edit in json.loads((out / "summary.json").read_text())["edits"]]
  files = {name: out / name / "metrics.json" for name in listed}
  return {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}


def table_1(runs: Mapping[str, tables.Metrics]) -> str:
  """The paper's table in markdown, and these edits below it."""
  found = tables.summaries(list(runs.values()))
  told = [_told(found.get(at)) for at in _TRIO]
  counts = [found[at].runs for at in _TRIO if at in found]
  models = sorted({run["clip"]["model"] for run in runs.values() if "clip" in run})
  lines = [
    "| | Cons | Sim | Dir |",
    "|---|---:|---:|---:|",
    *(f"| {name} | {' | '.join(f'{x:.3f}' for x in row)} |" for name, row in TABLE_1.items()),
    f"| edits measured: {max(counts, default=0)} | {' | '.join(told)} |",
    "",
    f"In brackets, from {tables.FEWEST} edits on: 95 % intervals. "
    f"CLIP: {', '.join(models) or 'none'}; the paper's is ViT-L/14.",
  ]
  return "\n".join(lines) + "\n"


def write(out: pathlib.Path) -> None:
  """Writes and prints the tables."""
  runs = measured(out)
  forms = {"md": tables.markdown, "csv": tables.comma_separated, "json": tables.as_json}
  for ending, written in forms.items():
    (out / f"edits.{ending}").write_text(written(runs))
  (out / "table1.md").write_text(table_1(runs))
  print((out / "table1.md").read_text(), end="")


def _told(found: tables.Summary | None) -> str:
  if found is None:
    return ""
  interval = "" if found.low is None else f" ({found.low:.3f} to {found.high:.3f})"
  return f"{found.mean:.3f}{interval}"


def main(argv: Sequence[str]) -> int:
  """Runs what is left and writes the tables; gives the exit code."""
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.paper_edits",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument("out", type=pathlib.Path)
  parser.add_argument("--jobs", type=pathlib.Path, help="a list of edits; needs --config=FILE")
  args, settings = parser.parse_known_args(argv[1:])
  args.out.mkdir(parents=True, exist_ok=True)
  jobs = args.jobs
  if jobs is None:
    jobs = args.out / "paper.jsonl"
    lines = list(papers_jobs())
    jobs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    first = next(iter(runpy.run_path(str(PAPER))["EDITS"]))  # each line sets what they differ in
    settings = [f"--config={PAPER}:{first}", *settings]
  code = batch.main(["batch", f"--jobs={jobs}", f"--out={args.out}", *settings])
  if (args.out / "summary.json").exists():
    write(args.out)
  return code


if __name__ == "__main__":
  sys.exit(main(sys.argv))
