"""What holds for camera paths, wherever the inputs stand."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from imx2mx_jax import paths

K = np.array([[1.2, 0, 0.5], [0, 1.1, 0.5], [0, 0, 1]])
TARGET = np.array([0.3, -0.2, 0.4])


def ring(count=5, spread=60.0, radius=3.0):
  """Cameras around TARGET, which they look at, 20 degrees above it; z is up."""
  poses = []
  for azimuth in np.radians(np.linspace(-spread / 2, spread / 2, count)):
    rise = np.radians(20)
    back = np.array([np.cos(azimuth) * np.cos(rise), np.sin(azimuth) * np.cos(rise), np.sin(rise)])
    right = np.cross([0, 0, 1], back)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(right, back), -back], axis=1)
    pose[:3, 3] = TARGET + radius * back
    poses.append(pose)
  return np.stack(poses), np.repeat(K[None], count, axis=0)


def project(c2w, K, point):
  """[F 3]: picture coordinates and depth of a point."""
  seen = np.einsum("fji,fj->fi", c2w[:, :3, :3], point - c2w[:, :3, 3])
  at = np.einsum("fij,fj->fi", K, seen / seen[:, 2:])
  return np.concatenate([at[:, :2], seen[:, 2:]], axis=1)


def begun():
  return paths.start(*ring(), first=2)


def test_the_point_that_all_look_at_is_found_and_up_is_up():
  c2w, _ = ring()
  np.testing.assert_allclose(paths.look_at(c2w), TARGET, atol=1e-9)
  for views in (c2w, c2w[3:]):
    up = paths.up(views)
    np.testing.assert_allclose(up, [0, 0, 1], atol=0.05)
    assert abs(np.linalg.norm(up) - 1) < 1e-12
  np.testing.assert_allclose(paths.up(c2w[:1]), -c2w[0, :3, 1], atol=1e-9)


def test_parallel_axes_and_one_photograph_have_a_point_in_front():
  side = np.repeat(np.eye(4)[None], 3, axis=0)
  side[:, 0, 3] = [-1, 0, 1]
  np.testing.assert_allclose(paths.look_at(side), [-1, 0, 4 / 3])
  np.testing.assert_allclose(paths.look_at(np.eye(4)[None]), [0, 0, 1])


def test_cameras_that_look_outwards_have_a_point_in_front_of_the_first():
  c2w, _ = ring(spread=240)
  c2w[:, :3, [0, 2]] *= -1  # turned by half a circle about their own vertical
  ahead = (paths.look_at(c2w) - c2w[0, :3, 3]) @ c2w[0, :3, 2]
  assert ahead > 0


@pytest.mark.parametrize("name", paths.PATHS)
def test_every_path_begins_at_the_start_with_rigid_poses(name):
  start = begun()
  c2w, intrinsics = paths.PATHS[name](start, 12, 1.0)
  assert c2w.shape == (12, 4, 4) and intrinsics.shape == (12, 3, 3)
  np.testing.assert_allclose(c2w[0], start.c2w, atol=1e-9)
  np.testing.assert_allclose(intrinsics[0], start.K, atol=1e-12)
  identity = np.einsum("fji,fjk->fik", c2w[:, :3, :3], c2w[:, :3, :3])
  np.testing.assert_allclose(identity, np.broadcast_to(np.eye(3), (12, 3, 3)), atol=1e-9)
  np.testing.assert_allclose(np.linalg.det(c2w[:, :3, :3]), 1)


@pytest.mark.parametrize("name", ["orbit", "arc", "spiral", "lemniscate", "roll"])
def test_paths_that_close_come_back_by_a_step_as_small_as_the_others(name):
  c2w, _ = paths.PATHS[name](begun(), 40, 1.0)
  steps = np.linalg.norm(c2w - np.roll(c2w, 1, axis=0), axis=(1, 2))
  assert steps[0] > 0  # the first camera is not repeated
  assert steps[0] <= 1.001 * steps.max() and steps.max() < 4 * np.median(steps)


@pytest.mark.parametrize("name", ["orbit", "arc", "spiral", "lemniscate", "roll"])
def test_what_the_start_looks_at_stays_in_the_middle(name):
  start = begun()
  at = project(*paths.PATHS[name](start, 15, 1.0), start.target)
  np.testing.assert_allclose(at[:, :2], 0.5, atol=1e-9)
  assert (at[:, 2] > 0).all()


def test_an_orbit_keeps_height_and_distance_and_goes_once_around():
  start = begun()
  c2w, _ = paths.orbit(start, 24)
  away = c2w[:, :3, 3] - start.target
  np.testing.assert_allclose(np.linalg.norm(away, axis=1), start.distance)
  np.testing.assert_allclose(away @ start.up, away[0] @ start.up)
  flat = away - np.outer(away @ start.up, start.up)
  turned = np.degrees(np.arccos((flat * np.roll(flat, 1, axis=0)).sum(1) / (flat[0] @ flat[0])))
  np.testing.assert_allclose(turned, 360 / 24)


def test_extent_is_the_size_of_a_path():
  start = begun()
  half, whole = (paths.PATHS["move-left"](start, 5, extent)[0] for extent in (0.5, 1.0))
  moved = lambda c2w: np.linalg.norm(c2w[-1, :3, 3] - start.c2w[:3, 3])
  assert moved(whole) == pytest.approx(2 * moved(half)) == pytest.approx(start.distance / 4)
  turn = paths.arc(start, 9, 0.5)[0][:, :3, :3] @ start.c2w[:3, :3].T
  assert Rotation.from_matrix(turn).magnitude().max() == pytest.approx(np.radians(15), rel=0.02)


@pytest.mark.parametrize("way", ["in", "out"])
def test_a_dolly_zoom_keeps_the_subject_s_size_while_the_distance_changes(way):
  start = begun()
  c2w, intrinsics = paths.PATHS[f"dolly-zoom-{way}"](start, 9, 1.0)
  right = start.c2w[:3, 0]
  edges = [project(c2w, intrinsics, start.target + side * right) for side in (-0.2, 0.2)]
  np.testing.assert_allclose(edges[1][:, 0] - edges[0][:, 0], edges[1][0, 0] - edges[0][0, 0])
  depth = project(c2w, intrinsics, start.target)[:, 2]
  assert depth[-1] / depth[0] == pytest.approx(0.5 if way == "in" else 2.0)


def test_a_zoom_changes_the_focal_length_alone():
  start = begun()
  c2w, intrinsics = paths.PATHS["zoom-in"](start, 4, 1.0)
  assert (c2w == start.c2w).all()
  np.testing.assert_allclose(intrinsics[-1, [0, 1], [0, 1]], 2 * start.K[[0, 1], [0, 1]])


@pytest.mark.parametrize(
  "name, axis, sign",
  [("forward", 2, 1), ("backward", 2, -1), ("left", 0, -1), ("right", 0, 1), ("up", 1, -1)],
)
def test_moves_go_where_they_say(name, axis, sign):
  start = begun()
  moved = paths.PATHS[f"move-{name}"](start, 3, 1.0)[0][-1, :3, 3] - start.c2w[:3, 3]
  along = moved @ start.c2w[:3, :3]
  assert along[axis] * sign == pytest.approx(start.distance / 4)


def test_the_path_along_the_inputs_passes_through_all_of_them():
  c2w, intrinsics = ring()
  c2w, intrinsics = c2w[[0, 2, 1, 4]], intrinsics[[0, 2, 1, 4]] * [[[1]], [[1.5]], [[1]], [[2]]]
  found, K = paths.along((c2w, intrinsics), 13)
  np.testing.assert_allclose(found[::4], c2w, atol=1e-9)
  np.testing.assert_allclose(K[::4], intrinsics)


def test_what_the_inputs_saw_is_known_and_the_back_of_the_scene_is_not():
  inputs = ring()
  start = paths.start(*inputs, first=2)
  share = paths.unseen(paths.orbit(start, 8), inputs, start.target)
  assert share[0] == 0 and share[4] == 1
  arc = paths.unseen(paths.arc(start, 8), inputs, start.target)
  assert arc.max() < 0.1
  wide = paths.unseen(paths.PATHS["zoom-out"](start, 3, 1.0), inputs, start.target)
  assert wide[0] == 0 < wide[1] < wide[2] < 1
