"""Writes scenes of the micro world, with their true edits, as folders that every command reads.

    python -m imx2mx_jax.micro.scenes OUT --count=12 --seed=0

OUT/scene_00, scene_01, ...: transforms.json (OpenGL axes), images/, depth/ (16 bits, millimetres
along the viewing axis, one exact sample at each pixel's centre; 0 is sky, 65535 is farther), ids/
(0 sky, 1 floor, 2.. the objects), edits.json (captions, the world's numbers, an instruction of each
kind) and edited/SLUG/ with the truly edited views of the definite ones. --patterns adds an
instruction to paint an object with stripes or dots, words that the bundled models do not know.
"""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import app, flags, logging
from PIL import Image

from imx2mx_jax import pictures
from imx2mx_jax.errors import ConfigError, SceneError, UserError
from imx2mx_jax.micro import render, world
from imx2mx_jax.micro.world import Edit, World
from imx2mx_jax.shapes import Array, Float, Int, UInt8, np

SIZE = 128
SAMPLES = 2

_COUNT = flags.DEFINE_integer("count", 12, "How many scenes.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "The first scene's seed; each has the next.", lower_bound=0)
_PATTERNS = flags.DEFINE_bool("patterns", False, "Also edits to stripes and dots.")

_DEPTH_UNIT = 0.001
_WORDINGS = {kind: wordings[:1] for kind, wordings in world.WIDE_WORDINGS.items()}


@dataclasses.dataclass(frozen=True)
class MicroScene:
  """A world, cameras to see it by, and edits of it."""

  world: World
  c2w: Float[np.ndarray, "V 4 4"]
  edits: Sequence[Edit]


def draw(seed: int, *, patterns: bool = False) -> MicroScene:
  """The scene of a seed: an edit of each kind, in that kind's first words."""
  drawn = world.sample(seed)
  kinds = [*world.WORDINGS, *(["pattern"] if patterns else [])]
  rng = np.random.default_rng((seed, 2))
  edits = world.edits(drawn, rng, wordings={kind: _WORDINGS[kind] for kind in kinds})
  return MicroScene(drawn, world.cameras(seed), edits)


def write(folder: pathlib.Path, scene: MicroScene) -> None:
  """Writes one scene; `folder` must not exist. Raises: SceneError."""
  try:
    folder.mkdir(parents=True)
  except FileExistsError:
    raise SceneError(f"{folder}: is there already; name another folder or remove it") from None
  images, depth, ids = views(scene.world, scene.c2w)
  _write_pictures(folder / "images", images)
  _write_pictures(folder / "depth", depth)
  _write_pictures(folder / "ids", ids)
  for edit in scene.edits:
    if edit.definite:
      _write_pictures(folder / "edited" / slug(edit), views(edit.world, scene.c2w)[0])
  _write_json(folder / "transforms.json", transforms(scene.c2w))
  _write_json(folder / "edits.json", description(scene))


def views(
  drawn: World, c2w: Float[np.ndarray, "V 4 4"]
) -> tuple[UInt8[np.ndarray, "V S S 3"], np.ndarray, UInt8[np.ndarray, "V S S"]]:
  """What the files hold: pictures, depth (uint16, millimetres) and ids, at SIZE pixels."""
  row = jax.tree.map(lambda x: x[0], render.arrays([drawn]))
  images, depth, ids = _render(row, c2w.astype(np.float32))
  millimetres = np.rint(np.minimum(np.asarray(depth) / _DEPTH_UNIT, 65535)).astype(np.uint16)
  return pictures.to_uint8(images), millimetres, np.asarray(ids, np.uint8)


def slug(edit: Edit) -> str:
  """An instruction as a file name."""
  return edit.instruction.replace(" ", "-")


def transforms(c2w: Float[np.ndarray, "V 4 4"]) -> dict[str, Any]:
  """What transforms.json holds."""
  opengl = c2w * np.array([1.0, -1.0, -1.0, 1.0])
  K = world.K * SIZE
  return {
    "camera_model": "OPENCV",
    "fl_x": K[0, 0],
    "fl_y": K[1, 1],
    "cx": K[0, 2],
    "cy": K[1, 2],
    "w": SIZE,
    "h": SIZE,
    **dict.fromkeys(("k1", "k2", "p1", "p2"), 0.0),
    "depth_unit_scale_factor": _DEPTH_UNIT,
    "frames": [
      {
        "file_path": f"images/{i:03}.png",
        "depth_file_path": f"depth/{i:03}.png",
        "mask_path": f"ids/{i:03}.png",
        "transform_matrix": pose.tolist(),
      }
      for i, pose in enumerate(opengl)
    ],
  }


def description(scene: MicroScene) -> dict[str, Any]:
  """What edits.json holds."""
  names = ["sky", "floor", *(world.describe(obj) for obj in scene.world.objs)]
  return {
    "source_caption": world.caption(scene.world),
    "edits": [_edit(edit) for edit in scene.edits],
    "ids": {str(i): name for i, name in enumerate(names)},
    "world": world.to_json(scene.world),
  }


def main(argv: list[str]) -> int:
  """Writes the scenes; returns the exit code."""
  logging.set_verbosity(logging.WARNING)  # or JAX tells which devices there are not
  try:
    if len(argv) != 2:
      named = " and ".join(argv[1:]) or "no folder"
      raise ConfigError(f"{named} was named; write OUT --count=N --seed=N, with one folder")
    for i in range(_COUNT.value):
      folder = pathlib.Path(argv[1]).expanduser() / f"scene_{i:02}"
      write(folder, draw(_SEED.value + i, patterns=_PATTERNS.value))
      print(folder, flush=True)
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  return 0


@jax.jit
def _render(
  row: render.Arrays, c2w: Float[Array, "V 4 4"]
) -> tuple[Array, Array, Int[Array, "V S S"]]:
  return render.render(row, c2w, world.K, SIZE, SAMPLES)


def _edit(edit: Edit) -> dict[str, Any]:
  told = {
    "slug": slug(edit),
    "instruction": edit.instruction,
    "kind": edit.kind,
    "definite": edit.definite,
  }
  if edit.definite:
    return told | {
      "edited_caption": world.caption(edit.world),
      "edited_dir": f"edited/{slug(edit)}",
    }
  plausible = [world.caption(one) for one in edit.plausible]
  return told | {"plausible_captions": plausible, "edited_caption": plausible[0]}


def _write_pictures(folder: pathlib.Path, arrays: np.ndarray) -> None:
  folder.mkdir(parents=True)
  for i, array in enumerate(arrays):
    Image.fromarray(array).save(folder / f"{i:03}.png", optimize=True)


def _write_json(file: pathlib.Path, content: Mapping[str, Any]) -> None:
  file.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
  app.run(main)
