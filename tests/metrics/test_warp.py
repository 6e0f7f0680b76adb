"""Warp error on the bundled scene, whose depth is exact."""

import pathlib

import numpy as np
import pytest

import imx2mx_jax
from imx2mx_jax.metrics import warp
from imx2mx_jax.scene import load_depth, load_scene

SCENE = pathlib.Path(imx2mx_jax.__file__).parent / "micro" / "scenes" / "scene_05"
SIZE = 128


@pytest.fixture(scope="module")
def scene():
  return load_scene(SCENE, (0, 2, 5, 7), size=SIZE)


@pytest.fixture(scope="module")
def depth(scene):
  return load_depth(scene, SIZE)


def errors(images, scene, depth):
  return warp.warp_errors(images, depth, scene.c2w, scene.K)


def test_photographs_of_one_scene_agree(scene, depth):
  found = errors(scene.images, scene, depth)
  assert found.mean < 0.005
  assert np.nanmin(found.share) > 0.4
  assert np.isnan(np.diag(found.error)).all()


def test_a_view_of_another_colour_is_noticed_in_its_pairs_only(scene, depth):
  images = scene.images.copy()
  images[1] += 0.4  # a fifth of the range
  found, before = (errors(x, scene, depth).error for x in (images, scene.images))
  touched = np.zeros((4, 4), bool)
  touched[1, :] = touched[:, 1] = True
  np.fill_diagonal(touched, False)
  np.testing.assert_allclose(found[touched], 0.2, atol=0.01)
  untouched = ~touched & ~np.eye(4, dtype=bool)
  np.testing.assert_array_equal(found[untouched], before[untouched])


def test_a_shifted_view_is_noticed(scene, depth):
  moved = scene.images.copy()
  moved[0] = np.roll(moved[0], 6, axis=1)
  assert errors(moved, scene, depth).mean > 3 * errors(scene.images, scene, depth).mean


def test_noise_has_the_error_of_unrelated_pictures(scene, depth):
  noise = np.random.default_rng(0).uniform(-1, 1, scene.images.shape)
  assert abs(errors(noise, scene, depth).mean - 1 / 3) < 0.1


def test_sky_is_never_compared(scene, depth):
  maps = errors(scene.images, scene, depth).maps
  assert np.isnan(maps[0, 1][depth[0] == 0]).all()


def test_depth_has_the_poses_units(depth):
  assert 1 < np.median(depth[depth > 0]) < 5
