"""The scenes that the world is held against: one is bundled, twelve lie beside this clone."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

import imx2mx_jax
from imx2mx_jax.micro import world

BUNDLED = pathlib.Path(imx2mx_jax.__file__).parent / "micro" / "scenes" / "scene_05"
SHARED = pathlib.Path(__file__).parents[3] / "shared" / "micro" / "scenes"
SCENES = (BUNDLED, *(SHARED / f"scene_{i:02}" for i in range(12)))

every_scene = pytest.mark.parametrize(
  "folder", SCENES, ids=lambda folder: folder.name + " (bundled)" * (folder == BUNDLED)
)


def require(folder):
  if not folder.is_dir():
    pytest.skip("the shared scenes are not beside this clone (../shared/micro/scenes)")


def read_world(folder):
  return world.from_json(read_json(folder / "edits.json")["world"])


def read_cameras(folder):
  frames = read_json(folder / "transforms.json")["frames"]
  return np.array([frame["transform_matrix"] for frame in frames]) * np.array([1, -1, -1, 1.0])


def read_json(file):
  return json.loads(file.read_text())


def read_pictures(folder):
  return np.stack([np.asarray(Image.open(file)) for file in sorted(folder.iterdir())])


def follow(drawn, instruction):
  """The world that an instruction in a scene's words asks for; of "a new color" every one."""
  words = instruction.split()
  change = lambda old, **changes: dataclasses.replace(
    drawn,
    objs=tuple(
      dataclasses.replace(obj, **changes) if obj.shape == old else obj for obj in drawn.objs
    ),
  )
  match words:
    case ["give", "the", shape, "a", "new", "color"]:
      (own,) = (obj.color for obj in drawn.objs if obj.shape == shape)
      return tuple(change(shape, color=color) for color in world.COLORS if color != own)
    case ["make", "it", sky]:
      return (dataclasses.replace(drawn, sky=sky),)
    case ["turn", "the", "floor", "into", floor]:
      return (dataclasses.replace(drawn, floor=floor),)
    case ["make", "the", shape, color]:
      return (change(shape, color=color),)
    case ["turn", "the", shape, "into", "a", other]:
      return (change(shape, shape=other),)
  raise ValueError(instruction)
