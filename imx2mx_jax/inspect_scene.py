"""Shows a scene before it is edited, and says what is suspicious about its cameras.

    python -m imx2mx_jax.inspect_scene SCENE
    python -m imx2mx_jax.inspect_scene SCENE --frames=0,1,2,3 --out=FOLDER --json

Prints the intrinsics, how far lenses move points, every pair's angle, overlap and epipolar error
(of more than 20 views, only pairs of neighbours), and what to try where something does not fit;
--json prints the same as one object. Writes
views.png, the pictures with the part that an edit sees, and cameras.png, the cameras from above
and from the side. Exit codes: 0 read, whatever was found; 1 a scene that cannot be read.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import matplotlib.figure
from PIL import Image, ImageDraw

from imx2mx_jax import config, pictures, scene_check, sheets
from imx2mx_jax import scene as scenes
from imx2mx_jax.errors import SceneError, UserError
from imx2mx_jax.scene_check import Findings
from imx2mx_jax.shapes import Float, UInt8, np

_SIDE = 320  # pixels of a picture on the contact sheet
_NEAR = 0.12  # of the cameras' extent: nearer to each other, labels would overlap


def main(argv: Sequence[str]) -> int:
  """Inspects one scene; `argv` is the command line without the program's name."""
  try:
    return _inspect(_parse(argv))
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return 1


def report(findings: Findings) -> dict[str, Any]:
  """The findings as --json prints them; views by their names, lengths in pixels."""
  names = findings.names
  return {
    "views": [
      {"name": name, "width": w, "height": h, "K": K.tolist(), "c2w": c2w.tolist()}
      for name, (h, w), K, c2w in zip(names, findings.sizes, findings.K, findings.c2w, strict=True)
    ],
    "pairs": [
      {**dataclasses.asdict(pair), "views": [names[view] for view in pair.views]}
      for pair in findings.pairs
    ],
    "pairs_left_out": findings.left_out,
    "distortion_px": findings.distortion_px,
    "distortion_ignored": not findings.undistorted,
    "suspicions": [
      {"what": found.what, "evidence": found.evidence, "try": found.remedy}
      for found in findings.suspicions
    ],
  }


def text(findings: Findings) -> str:
  """The findings for people."""
  rows = ["view                     size         fl_x   fl_y     cx     cy"]
  for name, (h, w), K in zip(findings.names, findings.sizes, findings.K, strict=True):
    numbers = " ".join(f"{x:6.1f}" for x in (K[0, 0], K[1, 1], K[0, 2], K[1, 2]))
    rows.append(f"{name:24.24} {w:5} x {h:<5} {numbers}")
  ignored = " (ignored, as --ignore-lens asks; leave it out to honour the file's lens)"
  lens = "" if findings.undistorted else ignored
  rows.append(f"\nlenses move points by up to {findings.distortion_px:.1f} px{lens}")
  rows.append("\npair                                       angle overlap matches  median error")
  for pair in findings.pairs:
    first, second = (findings.names[view] for view in pair.views)
    error = "-" if pair.median_error is None else f"{pair.median_error:.2f} px"
    rows.append(
      f"{first:20.20} {second:20.20} {pair.angle:5.0f}° {pair.overlap:6.0%} {pair.matches:7} "
      f"{error:>13}"
    )
  if findings.left_out:
    count = len(findings.pairs)
    rows.append(
      f"{count} of {count + findings.left_out} pairs were matched: each view with the "
      f"{scene_check.NEIGHBOURS} that look most nearly its way, and with the next"
    )
  rows.append("\nnothing is suspicious" if not findings.suspicions else "")
  for found in findings.suspicions:
    rows.append(f"suspicious: {found.what}\n  because {found.evidence}\n  try: {found.remedy}")
  return "\n".join(rows)


def views_sheet(
  transforms: scenes.Transforms,
  chosen: Sequence[int],
  names: Sequence[str],
  hw: tuple[int, int],
  *,
  undistort: bool = True,
) -> UInt8[np.ndarray, "H W 3"]:
  """The pictures as edits straighten them, small; what the crop to `hw` leaves out is grey.

  undistort: as of `scene.load_scene`.
  """
  columns = min(len(chosen), 4)
  tiles = [_framed(_upright(transforms, index, undistort), hw) for index in chosen]
  tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
  labels = [*names, *[""] * (len(tiles) - len(names))]
  rows = np.stack(tiles).reshape(-1, columns, _SIDE, _SIDE, 3)
  texts = [labels[i : i + columns] for i in range(0, len(labels), columns)]
  return sheets.contact_sheet(rows, texts)


def cameras_figure(findings: Findings) -> matplotlib.figure.Figure:
  """Where the cameras stand and look, from above and from the side of their common up."""
  centres, ahead = findings.c2w[:, :3, 3], findings.c2w[:, :3, 2]
  up = -findings.c2w[:, :3, 1].mean(axis=0)
  up /= np.linalg.norm(up)
  forward = ahead.mean(axis=0) - ahead.mean(axis=0) @ up * up
  forward /= np.linalg.norm(forward) or 1
  right = np.cross(forward, up)
  reach = np.linalg.norm(centres - centres.mean(axis=0), axis=1).max() or 1.0
  figure = matplotlib.figure.Figure(figsize=(10, 5), layout="constrained")
  sides = {"from above": (right, forward), "from the side": (forward, up)}
  for axes, (title, plane) in zip(figure.subplots(1, 2), sides.items(), strict=True):
    (x, y), (u, v) = ([part @ axis for axis in plane] for part in (centres, ahead * reach / 2))
    axes.quiver(x, y, u, v, angles="xy", scale_units="xy", scale=1, color="tab:blue", width=4e-3)
    axes.plot(x, y, "o", color="tab:blue")
    for label, view in camera_labels(findings.names, np.stack([x, y], axis=1)):
      behind = -14 * np.array([u[view], v[view]]) / (np.hypot(u[view], v[view]) or 1)
      axes.annotate(
        label,
        (x[view], y[view]),
        behind,
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=8,
      )
    axes.set_title(title)
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.3)
  return figure


def camera_labels(names: Sequence[str], places: Float[np.ndarray, "N 2"]) -> list[tuple[str, int]]:
  """Short labels, and the view where each stands; cameras that are close together share one.

  What all names begin with and their endings are left out.
  """
  stems = [pathlib.PurePath(name).stem for name in names]
  letters = enumerate(zip(*stems, strict=False))
  common = next((i for i, here in letters if len(set(here)) > 1), min(map(len, stems)))
  short = [stem[common:] or stem for stem in stems]
  near = _NEAR * np.ptp(places, axis=0).max()
  groups: list[list[int]] = []
  for view, place in enumerate(places):
    distances = [np.linalg.norm(place - places[group[0]]) for group in groups]
    if groups and min(distances) <= near:
      groups[int(np.argmin(distances))].append(view)
    else:
      groups.append([view])
  label = lambda group: (
    ", ".join(short[view] for view in group)
    if len(group) < 3
    else f"{short[group[0]]} +{len(group) - 1}"
  )
  return [(label(group), group[0]) for group in groups]


def _inspect(args: argparse.Namespace) -> int:
  transforms = scenes.read_transforms(args.scene)
  chosen = scenes.choose(transforms, config.frame_names(args.frames), most=math.inf)
  folder = pathlib.Path(args.out or f"runs/inspect-{pathlib.Path(args.scene).absolute().name}")
  findings = scene_check.inspect(transforms, chosen, undistort=not args.ignore_lens)
  sheet = views_sheet(transforms, chosen, findings.names, args.crop, undistort=not args.ignore_lens)
  _write(folder, sheet, cameras_figure(findings))
  if args.json:
    written = {"sheet": str(folder / "views.png"), "cameras": str(folder / "cameras.png")}
    print(json.dumps({"scene": str(transforms.file), **report(findings), **written}, indent=1))
  else:
    print(f"{transforms.file}\n\n{text(findings)}\n\n{folder / 'views.png'}")
    print(folder / "cameras.png")
  return 0


def _write(
  folder: pathlib.Path, sheet: UInt8[np.ndarray, "H W 3"], figure: matplotlib.figure.Figure
) -> None:
  try:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(folder / "views.png")
    figure.savefig(folder / "cameras.png", dpi=100)
  except OSError as error:
    raise SceneError(
      f"{folder} cannot be written ({error.strerror}); give another place with --out=FOLDER"
    ) from error


def _upright(
  transforms: scenes.Transforms, index: int, undistort: bool
) -> UInt8[np.ndarray, "H W 3"]:
  """A frame's picture as an edit has it before its crop."""
  view, _ = scene_check.as_stated(transforms, index)
  view = scenes.straightened(view) if undistort else view
  return pictures.to_uint8(np.rot90(view.image, view.quarters))


def _framed(image: UInt8[np.ndarray, "H W 3"], hw: tuple[int, int]) -> UInt8[np.ndarray, "S S 3"]:
  """A whole picture on a white square, grey outside the crop, the crop in a red frame."""
  height, width = image.shape[:2]
  scale = _SIDE / max(height, width)
  size = max(1, round(width * scale)), max(1, round(height * scale))
  scale = min(size[1] / hw[0], size[0] / hw[1])
  rows, columns = (max(1, round(side * scale)) for side in hw)
  top, left = size[1] // 2 - rows // 2, size[0] // 2 - columns // 2
  small = Image.fromarray(image).resize(size)
  tile = Image.blend(small, Image.new("RGB", size, "white"), 0.6)
  box = (left, top, left + columns, top + rows)
  tile.paste(small.crop(box), box)
  ImageDraw.Draw(tile).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), outline="red", width=2)
  square = Image.new("RGB", (_SIDE, _SIDE), "white")
  square.paste(tile, ((_SIDE - size[0]) // 2, (_SIDE - size[1]) // 2))
  return np.asarray(square)


def _crop(text: str) -> tuple[int, int]:
  """(height, width) of "768x576"."""
  width, _, height = text.partition("x")
  if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
    raise argparse.ArgumentTypeError(f"{text!r} is not a width and a height, as in 768x576")
  return int(height), int(width)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    "python -m imx2mx_jax.inspect_scene",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("scene", help="folder with the photographs and their cameras")
  parser.add_argument("--frames", default="", help="as --config.scene.frames; default: all")
  parser.add_argument("--crop", type=_crop, default=(1, 1), help="768x576; default: a square")
  parser.add_argument("--out", default="", help="folder of the pictures; runs/inspect-SCENE")
  parser.add_argument("--json", action="store_true", help="print one JSON object")
  parser.add_argument("--ignore-lens", action="store_true", help="as scene.undistort=false")
  return parser.parse_args(argv)


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
