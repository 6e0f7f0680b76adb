"""Cameras with one planted mistake each: it is named, and what undoes it."""

import dataclasses
import re

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from imx2mx_jax import doubts, matches

HW, K = (480, 640), np.array([[520.0, 0, 330], [0, 480, 230], [0, 0, 1]])
TOLERATED = 1.5


def pose(index: int) -> np.ndarray:
  """Camera-to-world, OpenGL axes, around the origin and looking there, none quite level."""
  turn = Rotation.from_euler("yxz", [14 * index - 30, -18 + 5 * index, 4 * index], degrees=True)
  c2w = np.eye(4)
  c2w[:3, :3] = turn.as_matrix()
  c2w[:3, 3] = c2w[:3, 2] * (4 + 0.2 * index) + [0.3, 0.1 * index, 0]
  return c2w


def project(view: doubts.Stated, world: np.ndarray) -> np.ndarray:
  seen = np.c_[world, np.ones(len(world))] @ np.linalg.inv(view.c2w).T[:, :3] @ view.K.T
  return seen[:, :2] / seen[:, 2:]


TRUE = [doubts.Stated(f"{i}.jpg", pose(i), np.eye(4), K, {}, HW) for i in range(5)]
WORLD = np.random.default_rng(0).uniform(-0.8, 0.8, (60, 3))
NOISE = np.random.default_rng(1).normal(0, 0.2, (5, 60, 2))
SEEN = [project(view, WORLD) + noise for view, noise in zip(TRUE, NOISE, strict=True)]


def suspicions(stated, seen=SEEN):
  points = {(i, j): np.stack([seen[i], seen[j]]) for i in range(5) for j in range(i) if i - j < 3}
  return doubts.suspect(stated, points, TOLERATED)[1]


def planted(**change) -> list[doubts.Stated]:
  """All views with fields changed by functions of their value."""
  new = lambda view: {name: f(getattr(view, name)) for name, f in change.items()}
  return [dataclasses.replace(view, **new(view)) for view in TRUE]


def entries(K, fx, fy, cx=330, cy=230):
  return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])


def moved(pose, order, signs):
  changed = pose.copy()
  changed[:3, 3] = pose[order, 3] * signs
  return changed


COLUMNS = lambda *signs: planted(pose=lambda pose: pose * [*signs, 1])
FAULTS = {
  "fl_x and fl_y are swapped": (planted(K=lambda K: entries(K, 480, 520)), "swap"),
  "cx and cy are swapped": (planted(K=lambda K: entries(K, 520, 480, 230, 330)), "swap"),
  "intrinsics are those of pictures of another size": (
    planted(K=lambda K: entries(K, 260, 240, 165, 115)),
    "w and h",
  ),
  "OpenCV axes": (COLUMNS(1, -1, -1), "second and the third column"),
  "y axes are flipped": (COLUMNS(1, -1, 1), "second column"),
  "z axes are flipped": (COLUMNS(1, 1, -1), "third column"),
  "world is mirrored": (planted(pose=lambda p: np.eye(4)[[0, 2, 1, 3]] @ p), "applied_transform"),
  "applied_transform was not applied": (
    planted(applied=lambda _: np.eye(4)[[0, 2, 1, 3]]),
    "remove it",
  ),
  "world-to-camera": (planted(pose=np.linalg.inv), "inverse"),
  "as COLMAP writes": (
    planted(pose=lambda pose: np.linalg.inv(pose * [1, -1, -1, 1])),
    "second and third column negated",
  ),
  "positions have other axes than their rotations (z negated)": (
    planted(pose=lambda pose: moved(pose, [0, 1, 2], [1, 1, -1])),
    "alike",
  ),
  "positions have other axes than their rotations (y and z swapped, z negated)": (
    planted(pose=lambda pose: moved(pose, [0, 2, 1], [1, -1, 1])),
    "alike",
  ),
  "lens distortion is not that of": (
    planted(lens=lambda _: {"p1": 0.3, "p2": -0.3}),
    "undistort=false",
  ),
}


def test_true_cameras_are_not_suspected():
  assert suspicions(TRUE) == []


@pytest.mark.parametrize("what", FAULTS)
def test_a_mistake_is_named_with_its_remedy(what):
  stated, remedy = FAULTS[what]
  [found] = suspicions(stated)
  assert what in found.what
  assert remedy in found.remedy
  assert "px" in found.evidence


def test_focal_lengths_that_fit_are_found():
  [found] = suspicions(planted(K=lambda K: entries(K, 600, 430)))
  assert "fl_x, fl_y do not fit" in found.what
  factors = np.array(found.remedy.split("times ")[1].split(")")[0].split(" and "), float)
  np.testing.assert_allclose(factors, [520 / 600, 480 / 430], rtol=0.03)


def test_only_the_focal_length_that_does_not_fit_is_named():
  [found] = suspicions(planted(K=lambda K: entries(K, 520, 400)))
  assert found.what == "the focal length fl_y does not fit the pictures"
  assert "about fl_y = 480 instead of 400 (all views: times 1.20)" in found.remedy
  assert "fl_x" not in found.remedy


@pytest.mark.parametrize(("cx", "cy"), [(250, 230), (330, 300), (400, 170)])
def test_a_principal_point_that_fits_is_found(cx, cy):
  [found] = suspicions(planted(K=lambda K: entries(K, 520, 480, cx, cy)))
  assert found.what == "the principal point cx, cy does not fit the pictures"
  told = [float(x) for x in re.findall(r"c[xy] = (\d+)", found.remedy)]
  np.testing.assert_allclose(told, [330, 230], atol=12)
  assert f"instead of {cx} and {cy}" in found.remedy


@pytest.mark.parametrize(
  ("length", "wanted"), [(502.3, 500), (451, 450), (1237, 1240), (98.7, 99), (0.912, 0.91)]
)
def test_a_focal_length_is_told_to_two_percent(length, wanted):
  assert doubts._rounded(length, 0.02 * length) == pytest.approx(wanted)


def test_two_mistakes_are_both_found():
  both = planted(pose=lambda pose: pose * [1, -1, -1, 1], K=lambda K: entries(K, 480, 520))
  first, second = suspicions(both)
  assert "OpenCV axes" in first.what
  assert "swapped" in second.what


def turned(points):
  """Points of a picture in np.rot90 of it."""
  return np.stack([points[:, 1], HW[1] - points[:, 0]], axis=1)


def test_a_turned_photograph_is_found_and_the_way_back():
  """The photograph was turned counterclockwise once; back is clockwise."""
  seen = [turned(points) if i == 2 else points for i, points in enumerate(SEEN)]
  [found] = suspicions(TRUE, seen)
  assert found.what.startswith("the photograph 2.jpg is turned")
  assert "90 degrees clockwise" in found.remedy


def test_all_photographs_upside_down_are_found():
  [found] = suspicions(TRUE, [np.array(HW[::-1]) - points for points in SEEN])
  assert "photographs are turned" in found.what
  assert "180 degrees" in found.remedy


def test_mirrored_photographs_are_found():
  [found] = suspicions(TRUE, [points * [-1, 1] + [HW[1], 0] for points in SEEN])
  assert found.what == "the photographs are mirrored"


def test_one_wrong_pose_is_blamed_on_its_view():
  off = TRUE[3].pose @ np.array(np.eye(4))
  off[:3, :3] = off[:3, :3] @ Rotation.from_euler("y", 9, degrees=True).as_matrix()
  stated = [dataclasses.replace(v, pose=off) if i == 3 else v for i, v in enumerate(TRUE)]
  [found] = suspicions(stated)
  assert found.what == "the camera of 3.jpg does not fit the others"


def test_cameras_of_another_scene_are_not_explained_away():
  rng = np.random.default_rng(3)
  poses = [
    np.block([[Rotation.random(rng=rng).as_matrix(), rng.normal(size=(3, 1))], [0, 0, 0, 1]])
    for _ in TRUE
  ]
  stated = [dataclasses.replace(v, pose=p) for v, p in zip(TRUE, poses, strict=True)]
  assert suspicions(stated)[-1].what == "the cameras do not fit the pictures"


def test_points_behind_a_camera_do_not_fit():
  points = np.stack([SEEN[0], SEEN[1]])
  geometry = np.stack([TRUE[0].c2w, TRUE[1].c2w]), np.stack([K, K])
  assert matches.in_front(points, *geometry).all()
  behind = geometry[0] * np.array([-1.0, 1, -1, 1])
  assert not matches.in_front(points, behind, geometry[1]).all()
