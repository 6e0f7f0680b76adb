"""Epipolar error where cameras and scene are known exactly."""

import numpy as np
import pytest

from imx2mx_jax import matches
from imx2mx_jax.metrics import epipolar
from tests.metrics.support import K as ONE
from tests.metrics.support import looking, room, smooth

C2W = np.stack([looking(-0.5), looking(0.0, 0.2), looking(0.5)])
K = np.stack([ONE] * 3)
TEXTURE = smooth(0, (2, 512, 512), 2.5)
SIDEWAYS = np.array([[1.0, 0, 0, 0], [0, 1, 0, 0.15], [0, 0, 1, 0], [0, 0, 0, 1]])


def views(texture=TEXTURE, c2w=C2W):
  return np.stack([room(texture, pose)[0] for pose in c2w])


@pytest.fixture(scope="module")
def photographs():
  return views()


@pytest.fixture(scope="module")
def floors(photographs):
  return epipolar.floors(photographs, C2W, K)


def test_photographs_fit_their_cameras(photographs, floors):
  assert set(floors) == {(0, 1), (0, 2), (1, 2)}
  assert max(floors.values()) < 0.3
  for pair in epipolar.epipolar(photographs, floors, C2W, K):
    assert pair.median_sed == pair.floor
    assert pair.matches > 50


def test_another_texture_on_the_same_geometry_passes(floors):
  repainted = views(255 - smooth(7, TEXTURE.shape[:3], 2.5))
  pairs = epipolar.epipolar(repainted, floors, C2W, K)
  assert epipolar.passing(pairs) == {2: 1, 4: 1, 8: 1}


def test_a_shifted_camera_is_noticed(photographs, floors):
  """The third view is taken from elsewhere than its camera says."""
  edited = photographs.copy()
  edited[2] = room(TEXTURE, C2W[2] @ SIDEWAYS)[0]
  sound, *shifted = epipolar.epipolar(edited, floors, C2W, K)
  assert sound.views == (0, 1) and sound.passes(2)
  assert all(pair.median_sed > 4 and not pair.passes(4) for pair in shifted)
  assert epipolar.passing([sound, *shifted])[4] == pytest.approx(1 / 3)
  assert epipolar.floor_passing([sound, *shifted])[4] == 1


def test_wrong_cameras_raise_the_floor(photographs):
  wrong = C2W.copy()
  wrong[2] = wrong[2] @ SIDEWAYS
  floors = epipolar.floors(photographs, wrong, K)
  assert floors[0, 1] < 0.3
  assert min(floors[0, 2], floors[1, 2]) > 4


def test_only_pairs_that_match_as_photographs_count(photographs):
  behind = photographs.copy()
  behind[0] = smooth(3, (192, 192), 3.0)
  assert set(epipolar.floors(behind, C2W, K)) == {(1, 2)}


def test_a_few_matches_by_chance_are_no_pair(photographs):
  """One detail of the second view in a picture of something else."""
  behind = photographs.copy()
  behind[0] = smooth(3, (192, 192), 3.0)
  behind[0, 80:116, 80:116] = behind[1, 80:116, 80:116]
  assert matches.sift_matches(behind[0], behind[1]).shape[1] > 3
  assert set(epipolar.floors(behind, C2W, K)) == {(1, 2)}


def test_a_small_error_of_too_few_matches_does_not_pass():
  few, enough = (epipolar.Pair((0, 1), n, 0.1, 0.1) for n in (9, 10))
  assert not few.passes(2)
  assert enough.passes(2)
  assert epipolar.median_error([few]) == np.inf


def test_an_edit_without_matches_does_not_pass(photographs, floors):
  pairs = epipolar.epipolar(np.full_like(photographs, 128), floors, C2W, K)
  assert [pair.matches for pair in pairs] == [0, 0, 0]
  assert epipolar.passing(pairs) == {2: 0, 4: 0, 8: 0}
  assert epipolar.median_error(pairs) == np.inf


def test_cameras_in_one_place_have_no_epipolar_error(photographs):
  assert epipolar.floors(photographs, C2W[[0, 0, 0]], K) == {}
