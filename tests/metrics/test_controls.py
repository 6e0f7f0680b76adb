"""Every measure of consistency ranks pictures about which there is no doubt."""

import numpy as np
import pytest

from imx2mx_jax import pictures
from imx2mx_jax.metrics import controls, epipolar, warp
from tests.metrics.support import K as ONE
from tests.metrics.support import looking, room, smooth

C2W = np.stack([looking(-0.5), looking(0.0, 0.2), looking(0.5)])
K = np.stack([ONE] * 3)


@pytest.fixture(scope="module")
def scene():
  """Photographs in [-1, 1] and their depth."""
  texture = smooth(0, (2, 512, 512), 2.5)
  images, depth = zip(*(room(texture, pose) for pose in C2W), strict=True)
  return pictures.from_8_bits(np.stack(images)), np.stack(depth)


def test_the_controls_are_pictures_like_the_photographs(scene):
  views = controls.control_views(scene[0])
  assert list(views) == ["photographs", "identical views", "different scenes", "noise"]
  for images in views.values():
    assert images.shape == scene[0].shape
    assert images.min() >= -1 and images.max() <= 1
  different = views["different scenes"]
  assert min(np.abs(different[i] - different[j]).mean() for i, j in [(0, 1), (0, 2), (1, 2)]) > 0.2


def test_the_epipolar_error_ranks_them(scene):
  floors = epipolar.floors(pictures.to_uint8(scene[0]), C2W, K)
  error = lambda images: epipolar.median_error(
    epipolar.epipolar(pictures.to_uint8(images), floors, C2W, K)
  )
  values = controls.judged(error, controls.control_views(scene[0]))
  assert values["photographs"] < 0.3 < 1 < values["identical views"]
  assert controls.errors_rank(values)


def test_the_warp_error_ranks_them(scene):
  error = lambda images: warp.warp_errors(images, scene[1], C2W, K).mean
  values = controls.judged(error, controls.control_views(scene[0]))
  assert controls.errors_rank(values)
  assert values["identical views"] < values["noise"]


def test_a_measure_that_does_not_look_across_views_does_not_rank_them(scene):
  """Sharpness, say: noise has the most of it, and copies as much as the photographs."""
  blur = lambda images: float(1 / np.abs(np.diff(images, axis=1)).mean())
  assert not controls.errors_rank(controls.judged(blur, controls.control_views(scene[0])))


@pytest.mark.parametrize(("error", "clear"), [(0.9, False), (1.2, False), (2.0, True)])
def test_every_control_must_be_clearly_worse(error, clear):
  assert controls.errors_rank({"photographs": 1.0, "copies": error, "noise": None}) is clear


def test_a_measure_that_says_nothing_of_photographs_does_not_rank():
  assert not controls.errors_rank({"photographs": None, "noise": None})
