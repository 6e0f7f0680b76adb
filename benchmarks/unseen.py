"""How near the ablations' views come to true edits: where the reference view looks, and elsewhere.

    python -m benchmarks.unseen OUT [--scenes=FOLDER] [--clip=FOLDER]
        [--config=configs/default.py] [--config.FIELD=VALUE ...]

The student is given one edited view; a point that this view shows needs only to be carried over,
any other has to be made up. Reads a finished folder of benchmarks.ablations, with the scenes and
settings it was made with, and prints, for each row's definite edits and the views beside the
reference, the decibels to the truth of either kind of pixel, and how they differ from the full
method's, with 95 % intervals over scenes. What the photographs' depth does not hold (sky, another
shape of an object) does not count.
"""

import argparse
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import ablations
from imx2mx_jax import config, edit, pictures
from imx2mx_jax.errors import ConfigError, UserError
from imx2mx_jax.metrics import warp
from imx2mx_jax.scene import Scene
from imx2mx_jax.shapes import Bool, Float

KINDS = ("seen", "unseen")


def parts(
  depth: Float[np.ndarray, "N S S"], scene: Scene, reference: int
) -> dict[str, Bool[np.ndarray, "N S S"]]:
  """{kind: pixels}: those whose points the reference shows, and those whose it does not."""
  found = []
  for view, c2w, K in zip(depth, scene.c2w, scene.K, strict=True):
    points = warp.unproject(view, c2w, K)
    look = view[..., None], depth[reference], scene.c2w[reference], scene.K[reference]
    found.append(warp.look_up(points, *look)[1])
  beside = (depth > 0) & (np.arange(len(depth)) != reference)[:, None, None]
  return {"seen": beside & np.stack(found), "unseen": beside & ~np.stack(found)}


def measured(
  out: pathlib.Path,
  scenes: pathlib.Path,
  settings: config.ConfigDict,
  lines: Sequence[Mapping[str, Any]],
) -> Iterator[dict[str, Any]]:
  """Of each definite edit its row and case, and by kind of pixel the decibels and the share."""
  bench = ablations.Bench(out, settings, None, None)
  for number, folder in enumerate(sorted(file.parent for file in scenes.glob("*/edits.json"))):
    for task in ablations.tasks(folder, number):
      if task.target is not None:
        continue
      for line in lines:
        if (line["scene"], line["instruction"]) != (folder.name, task.instruction):
          continue
        run = bench.run(ablations.FULL, task, line["seed"])
        scene, known = ablations.known_of(task, run)
        images = _views(out, line, run.teacher.size)
        errors = np.square(images - known.answers[0]).mean(axis=-1)
        told = {key: line[key] for key in ("row", "scene", "instruction", "seed")}
        for kind, pixels in parts(known.depth, scene, edit.reference_view(run, scene)).items():
          decibels = 10 * np.log10(4 / errors[pixels].mean()) if pixels.any() else None
          told |= {kind: decibels, f"{kind}_share": pixels.mean()}
        yield told


def _views(out: pathlib.Path, line: Mapping[str, Any], size: int):
  case = ablations.case_name(line["scene"], line["instruction"], line["seed"])
  strip = np.asarray(Image.open(out / "pictures" / case / f"{line['row']}.png"))
  images = pictures.from_8_bits(np.stack(np.split(strip, strip.shape[1] // strip.shape[0], axis=1)))
  return images if images.shape[1] == size else np.asarray(pictures.teacher_source(images, size))


def markdown(lines: Sequence[Mapping[str, Any]]) -> str:
  """The table."""
  head = ["row", *KINDS, *(f"{kind} - full's" for kind in KINDS)]
  body = [head, ["---"] * len(head)]
  for row in [row for row in ablations.ROWS if any(line["row"] == row for line in lines)]:
    own = [ablations.values_of(lines, row, kind) for kind in KINDS]
    full = [ablations.values_of(lines, ablations.FULL, kind) for kind in KINDS]
    means = [f"{ablations.interval('', each)['mean']:.2f}" if each else "" for each in own]
    apart = [{c: a[c] - b[c] for c in a.keys() & b.keys()} for a, b in zip(own, full, strict=True)]
    differences = [ablations.interval("difference_", each) if each else {} for each in apart]
    cells = [ablations.cell({"measure": "psnr"} | each, "difference_") for each in differences]
    body.append([row, *means, *cells])
  return "\n".join(f"| {' | '.join(line)} |" for line in body)


def main(argv: Sequence[str]) -> int:
  """Measures and prints the table; gives the exit code."""
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.unseen",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument("out", type=pathlib.Path)
  parser.add_argument("--scenes", type=pathlib.Path, help="if they are not OUT/scenes")
  parser.add_argument("--clip", type=pathlib.Path, default=ablations.BUNDLED / "metric_clip")
  args, rest = parser.parse_known_args(argv[1:])
  try:
    settings = ablations.settings_of(rest)
    cases = args.out / "cases.jsonl"
    if not cases.exists():
      raise ConfigError(f"{cases}: there is no such file; python -m benchmarks.ablations writes it")
    ablations.check_claim(args.out, settings, args.clip, args.scenes)
    scenes, lines = args.scenes or args.out / "scenes", ablations.finished(cases)
    found = list(measured(args.out, scenes, settings, lines))
    if not found:
      raise ConfigError(f"{cases} has no definite edit of a scene in {scenes}")
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  print(markdown(found))
  shares = {kind: np.mean([line[f"{kind}_share"] for line in found]) for kind in KINDS}
  print("\nof all pixels: " + ", ".join(f"{kind} {share:.3f}" for kind, share in shares.items()))
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv))
