"""The renderer against the shared pictures, and against geometry in a few lines of NumPy."""

import dataclasses
import functools
import math

import jax
import numpy as np
import pytest

from imx2mx_jax.micro import render, scenes, world
from tests.micro import support

SIZE = 32
SOME = slice(0, 8, 5)  # views of an edit
LIGHT = (-0.4, -0.45, math.sqrt(1 - 0.4**2 - 0.45**2))


@functools.cache
def rendered(folder, instruction=None):
  """Pictures (in 8 bits), depth (in millimetres) and ids of a scene; of an edit, some views."""
  drawn = support.read_world(folder)
  if not instruction:
    return scenes.views(drawn, support.read_cameras(folder))
  return scenes.views(support.follow(drawn, instruction)[0], support.read_cameras(folder)[SOME])


def psnr(one, other):
  error = np.square(one.astype(float) - other.astype(float)).mean()
  return 10 * np.log10(255**2 / max(error, 1e-9))


def cast(drawn, c2w, size=SIZE, samples=1):
  row = jax.tree.map(lambda x: x[0], render.arrays([drawn]))
  program = jax.jit(render.render, static_argnums=(3, 4))
  return jax.tree.map(np.asarray, program(row, c2w, world.K, size, samples))


def one_object(shape, **looks):
  obj = world.Object(shape, "red", 0.1, -0.2, 0.9, 0.4, **looks)
  return world.World((obj,), "sand", "day", LIGHT)


def points(c2w, depth):
  """Where each pixel's ray ends, in the world, [V S S 3]."""
  cells = (np.arange(SIZE) + 0.5) / SIZE
  u, v = np.meshgrid(cells, cells)
  seen = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(world.K).T
  turned = np.einsum("vij,hwj->vhwi", c2w[:, :3, :3], seen)
  return c2w[:, None, None, :3, 3] + turned * depth[..., None]


@support.every_scene
def test_shared_pictures_are_reproduced(folder):
  support.require(folder)
  assert psnr(rendered(folder)[0], support.read_pictures(folder / "images")) > 65


@support.every_scene
def test_shared_ids_and_depth_are_reproduced(folder):
  """Of 131072 pixels three at most lie so close to an edge that rounding decides."""
  support.require(folder)
  _, depth, ids = rendered(folder)
  same = ids == support.read_pictures(folder / "ids")
  assert (~same).sum() <= 3
  theirs = support.read_pictures(folder / "depth").astype(int)
  assert abs(depth.astype(int) - theirs)[same].max() <= 1


@support.every_scene
def test_shared_edits_are_reproduced(folder):
  support.require(folder)
  edits = support.read_json(folder / "edits.json")["edits"]
  definite = [edit for edit in edits if (folder / edit.get("edited_dir", "none")).is_dir()]
  assert definite
  for edit in definite:
    images, _, _ = rendered(folder, edit["instruction"])
    theirs = support.read_pictures(folder / edit["edited_dir"])[SOME]
    assert psnr(images, theirs) > 55, edit["slug"]


@pytest.mark.parametrize("shape", world.SHAPES)
def test_depth_ends_on_the_solid_or_on_the_floor(shape):
  """The four solids as ../shared/micro shows them, in units of their size."""
  drawn = one_object(shape)
  c2w = world.cameras(3)
  _, depth, ids = cast(drawn, c2w)
  obj, p = drawn.objs[0], points(c2w, depth)
  assert abs(p[ids == 1][:, 2] / depth[ids == 1]).max() < 1e-6
  x, y, z = np.moveaxis(p[ids == 2] - [obj.x, obj.y, 0], -1, 0) / obj.s
  cos, sin = math.cos(obj.yaw), math.sin(obj.yaw)
  x, y = cos * x + sin * y, cos * y - sin * x
  radius = np.hypot(x, y)
  outside = {
    "sphere": np.hypot(radius, z - 0.62) - 0.62,
    "cube": np.max([abs(x), abs(y), abs(z - 0.52)], axis=0) - 0.52,
    "cylinder": np.maximum(radius - 0.48, abs(z - 0.575) - 0.575),
    "cone": np.maximum(radius - 0.62 * (1 - z / 1.35), -z),
  }[shape]
  assert len(outside) > 100
  assert abs(outside).max() < 1e-4


def test_nothing_hides_behind_the_sky():
  _, depth, ids = cast(one_object("cone"), world.cameras(0))
  assert ((depth == 0) == (ids == 0)).all()
  assert set(np.unique(ids)) == {0, 1, 2}


def test_the_nearer_object_hides_the_farther():
  near = world.Object("cube", "red", 0, -0.7, 0.7, 0)
  far = world.Object("cylinder", "blue", 0, 0.7, 0.7, 0)
  c2w = world.cameras(0)[3:5]
  for objs in ((near, far), (far, near)):
    drawn = world.World(objs, "sand", "day", LIGHT)
    _, depth, ids = cast(drawn, c2w)
    _, alone, hit = cast(dataclasses.replace(drawn, objs=(near,)), c2w)
    number = 2 + objs.index(near)
    assert ((ids == number) == (hit == 2)).all()
    np.testing.assert_allclose(depth[ids == number], alone[hit == 2], rtol=1e-6)


def test_shadows_lie_away_from_the_sun():
  c2w = world.cameras(0)[3:4]
  drawn = one_object("cylinder")
  images, depth, ids = cast(drawn, c2w)
  dark = (ids == 1) & (images[..., 0] < images[ids == 1][:, 0].max() - 0.1)
  away = points(c2w, depth)[dark][:, :2] - [drawn.objs[0].x, drawn.objs[0].y]
  assert dark.sum() > 5
  assert (away @ LIGHT[:2] < 0).mean() > 0.9


def test_more_samples_are_the_mean_of_a_finer_picture():
  drawn, c2w = one_object("sphere"), world.cameras(1)[:2]
  fine, _, _ = cast(drawn, c2w, 2 * SIZE)
  coarse, depth, ids = cast(drawn, c2w, SIZE, samples=2)
  mean = fine.reshape(2, SIZE, 2, SIZE, 2, 3).mean(axis=(2, 4))
  np.testing.assert_allclose(coarse, mean, atol=1e-5)
  _, exact_depth, exact_ids = cast(drawn, c2w, SIZE)
  assert np.array_equal(depth, exact_depth)
  assert np.array_equal(ids, exact_ids)


def test_many_worlds_at_once_are_each_as_if_alone():
  worlds = [world.sample(seed, patterned=0.5) for seed in (1, 2, 9)]
  assert len({len(drawn.objs) for drawn in worlds}) > 1
  c2w = np.stack([world.cameras(seed)[:2] for seed in range(3)])
  together = jax.jit(jax.vmap(lambda row, poses: render.render(row, poses, world.K, SIZE)))
  images, depth, _ = together(render.arrays(worlds), c2w)
  assert images.shape == (3, 2, SIZE, SIZE, 3)
  for i, drawn in enumerate(worlds):
    alone, depth_alone, _ = cast(drawn, c2w[i])
    # Rounding may take a pixel over an edge.
    assert (abs(np.asarray(images)[i] - alone) > 1e-4).mean() < 1e-3
    assert (abs(np.asarray(depth)[i] - depth_alone) > 1e-3).mean() < 1e-3


@pytest.mark.parametrize("pattern", world.PATTERNS[1:])
@pytest.mark.parametrize("shape", world.SHAPES)
def test_patterns_show_both_colours_on_the_object_alone(shape, pattern):
  c2w = world.cameras(0)[3:4]
  plain, _, ids = cast(one_object(shape), c2w)
  patterned, _, _ = cast(one_object(shape, pattern=pattern, color2="blue"), c2w)
  changed = (plain != patterned).any(axis=-1)
  assert not changed[ids != 2].any()
  assert 0.1 < changed[ids == 2].mean() < 0.9
  red, _, blue = np.moveaxis(patterned[changed], -1, 0)
  assert (blue > red).all()


def test_pictures_are_within_range():
  for sky in world.SKIES:
    drawn = dataclasses.replace(one_object("sphere"), sky=sky, floor="snow")
    images, _, _ = cast(drawn, world.cameras(0)[:1])
    assert images.min() >= -1
    assert images.max() <= 1
