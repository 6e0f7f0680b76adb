"""Finds the cameras of photographs and writes a scene that every command reads.

    python -m imx2mx_jax.poses PHOTOS --out=SCENE

PHOTOS is a folder with at least three photographs of one thing that does not move, from different
places; more than will be edited are welcome, ten to fifty are good. SCENE gets images/ (without
lens distortion), transforms.json and sparse/0/ (a COLMAP model); which views to edit is chosen
later, by --config.scene.frames. Cameras that are not to be trusted are not written: then it says
which photographs have none, why, and what to photograph. Needs pycolmap (the extra `colmap`).
Exit codes: 0 written; 1 not, with a sentence why; 130 stopped. A scene appears whole or not at all.
"""

import argparse
import json
import pathlib
import sys
import tempfile
from collections.abc import Callable, Sequence

from etils import epath

from imx2mx_jax import colmap, mapping, scene, scene_check, terminal
from imx2mx_jax.errors import SceneError
from imx2mx_jax.mapping import Mapped

_PARTNERS = 3  # of a photograph that are named
_MORE = (
  "photograph what does not move, from ten or more places around it, with two thirds of each "
  "picture in the next one, a step aside rather than a turn on the spot, all sharp and in one light"
)


def main(argv: Sequence[str]) -> int:
  """Finds cameras for one folder; `argv` is the command line without the program's name."""
  args = _parse(argv)
  try:
    return terminal.exit_code(lambda: _find(args.photos.expanduser(), args.out.expanduser()))
  except KeyboardInterrupt:
    print("stopped", file=sys.stderr)
    return 130


def _find(photos: pathlib.Path, out: pathlib.Path) -> int:
  find(photos, out, lambda line: print(line, flush=True))
  print(f"next: python -m imx2mx_jax.inspect_scene {out}")
  print(out)
  return 0


def find(photos: pathlib.Path, out: pathlib.Path, tell: Callable[[str], None]) -> None:
  """Finds the cameras of a folder's photographs and writes the scene. tell: hears how it goes.

  Raises: SceneError; nothing is written then.
  """
  if out.exists():
    raise SceneError(f"{out}: is there already; name another folder with --out, or remove it")
  files = mapping.photographs(photos)
  pairs = len(files) * (len(files) - 1) // 2
  tell(f"{len(files)} photographs; matching {pairs} pairs")
  with tempfile.TemporaryDirectory(prefix="poses-") as name:
    work = pathlib.Path(name)
    mapped = mapping.find_cameras(files, work)
    for line in said(mapped):
      tell(line)
    if mapped.doubt:
      raise SceneError(f"{photos}: no cameras were written because {mapped.doubt}; {_MORE}")
    write(mapped, work, out)


def said(mapped: Mapped) -> list[str]:
  """How many photographs have cameras, and of each that has none the matches and what may help."""
  placed = set(mapped.placed)
  lines = [f"{len(placed)} of {len(mapped.names)} photographs have cameras that fit"]
  for name in mapped.names:
    if name not in placed:
      lines.append(f"  {name}: {_why(mapped, name)}")
  return lines


def write(mapped: Mapped, work: pathlib.Path, out: pathlib.Path) -> None:
  """Writes the scene, whole or not at all. work: that of `mapping.find_cameras`.

  Raises: SceneError where the folder cannot be written, or where the pictures, read again with
  their cameras, do not fit them.
  """
  made = [folder for folder in out.absolute().parents if not folder.exists()]
  try:
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.absolute().parent) as name:
      staged = pathlib.Path(name) / "scene"
      staged.mkdir()
      mapping.write_straight(mapped, work, staged)
      _write_transforms(staged)
      _refuse_misfits(staged, out)
      staged.rename(out)
  except (OSError, RuntimeError) as error:
    raise SceneError(f"{out}: cannot be written ({error}); name another folder") from error
  finally:
    for folder in made:
      if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _why(mapped: Mapped, name: str) -> str:
  """Its matches with others, why these do not do, and what to photograph."""
  placed, partners = set(mapped.placed), mapped.partners(name)
  if not partners:
    return (
      f"shares fewer than {mapping.FEWEST_MATCHES} points with any other; photograph the way from "
      "it to the others in smaller steps, or leave it out"
    )
  matches = ", ".join(f"{pair.matches} with {other}" for other, pair in partners[:_PARTNERS])
  near, pair = partners[0]
  if pair.flat:
    return (
      f"{matches}; from where {near} was taken it is a mere turn or shows a flat thing only; step "
      "aside, and have things at different distances in the picture"
    )
  if any(pair.explained is False for _, pair in partners):
    return (
      f"{matches}, which contradict the other photographs' (things that move or repeat, or "
      "another zoom); photograph it again at rest, with more around it in the picture"
    )
  if not any(other in placed for other, _ in partners):
    return f"{matches}, and none of these has a camera; photograph the way from them to the others"
  return (
    f"{matches}, but too few points that a third photograph shows too; take two or three more from "
    f"between it and {near}"
  )


def _write_transforms(folder: pathlib.Path) -> None:
  frames = [
    {**frame, "file_path": f"images/{pathlib.PurePath(frame['file_path']).name}"}
    for frame in colmap.read(colmap.find(epath.Path(folder / "sparse" / "0")))
  ]
  content = {"camera_model": "PINHOLE", "frames": frames}
  (folder / "transforms.json").write_text(json.dumps(content, indent=1, ensure_ascii=False))


def _refuse_misfits(folder: pathlib.Path, out: pathlib.Path) -> None:
  """Looks at the scene as every edit does at its start."""
  transforms = scene.read_transforms(folder)
  for found in scene_check.briefly(transforms, range(len(transforms.frames)))[:1]:
    raise SceneError(
      f"{out}: the cameras found were not written because {found.what} ({found.evidence}); {_MORE}"
    )


def _parse(argv: Sequence[str]) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    "python -m imx2mx_jax.poses",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("photos", type=pathlib.Path, help="folder with photographs")
  parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the scene, new")
  return parser.parse_args(argv)


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
