"""What holds for SEVA's sampler, whatever the network: passes over a path, guidance, cameras."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from imx2mx_jax import sampler

LONG = [
  (frames, views, at_once)
  for frames, views, at_once in itertools.product(
    (2, 7, 20, 21, 80, 90, 333), (1, 2, 4, 20), (4, 6, 21, 30)
  )
  if frames + views > at_once
]


def test_a_short_path_is_made_in_one_pass():
  plan = sampler.passes(17, views=4, at_once=21)
  assert plan == sampler.Passes((), (tuple(range(17)),), 4)


@pytest.mark.parametrize("frames, views, at_once", LONG)
def test_a_long_path_is_made_whole_between_anchors(frames, views, at_once):
  plan = sampler.passes(frames, views, at_once)
  assert set(plan.anchors).union(*plan.chunks) == set(range(frames))
  assert plan.anchors[0] == 0 and plan.anchors[-1] == frames - 1
  assert len({len(chunk) for chunk in plan.chunks}) == 1  # so that one compilation serves all
  for chunk in plan.chunks:
    assert {chunk[0], chunk[-1]} <= set(plan.anchors)
    assert len(chunk) + plan.kept <= at_once
    repeated = chunk[len(set(chunk)) :]
    assert set(repeated) <= {frames - 1}


def test_a_single_camera_is_rendered_beside_many_views():
  plan = sampler.passes(1, views=30, at_once=21)
  assert set(plan.anchors).union(*plan.chunks) == {0} and plan.kept < 21


def test_anchors_are_evenly_spread_and_fill_the_first_pass():
  plan = sampler.passes(80, views=1, at_once=21)
  steps = np.diff(plan.anchors)
  assert (steps[:-1] == steps[0]).all() and 0 < steps[-1] <= steps[0]
  assert 15 <= len(plan.anchors) + 1 <= 21


def test_too_few_at_once_is_refused():
  with pytest.raises(ValueError, match="3 frames at once"):
    sampler.passes(10, views=1, at_once=3)


def cameras(count=6):
  c2w = np.repeat(np.eye(4, dtype=np.float32)[None], count, axis=0)
  c2w[:, 0, 3] = np.arange(count)
  return c2w, np.repeat(np.eye(3, dtype=np.float32)[None], count, axis=0)


def scales(rule, clean, **changed):
  c2w, K = cameras()
  c2w, K = changed.get("c2w", c2w), changed.get("K", K)
  return sampler.guidance_scales(rule, 3.0, 1.0, c2w, K, np.isin(np.arange(6), clean))


def test_plain_guidance_is_the_same_everywhere():
  assert (scales("plain", [0]) == 3).all()


def test_a_camera_that_is_an_input_s_is_guided_least():
  np.testing.assert_allclose(scales("multiview", [2]), [3, 3, 1, 3, 3, 3])
  c2w, K = cameras()
  c2w[5] = c2w[2]
  np.testing.assert_allclose(scales("multiview", [2], c2w=c2w), [3, 3, 1, 3, 3, 1])
  K[5, 0, 0] = 2  # zoomed in: another camera after all
  np.testing.assert_allclose(scales("multiview", [2], c2w=c2w, K=K), [3, 3, 1, 3, 3, 3])
  turned = np.diag([-1, 1, -1]).astype(np.float32)
  c2w[5, :3, :3], K[5] = turned, K[2]
  np.testing.assert_allclose(scales("multiview", [2], c2w=c2w, K=K), [3, 3, 1, 3, 3, 3])


def test_guidance_grows_with_the_distance_in_frames():
  np.testing.assert_allclose(scales("temporal", [0]), [1, 1.4, 1.8, 2.2, 2.6, 3])
  np.testing.assert_allclose(scales("temporal", [0, 5]), [1, 2, 3, 3, 2, 1])


def test_an_unknown_rule_is_refused():
  with pytest.raises(ValueError, match="none"):
    scales("none", [0])


def test_frames_that_are_not_clean_do_not_condition():
  random = np.random.default_rng(0)
  latents, embeddings = random.normal(size=(3, 2, 2, 4)), random.normal(size=(3, 5))
  clean, plucker = np.array([True, False, True]), jnp.zeros((3, 2, 2, 6))
  cond = sampler.condition(jnp.float32(latents), jnp.float32(embeddings), clean, plucker)
  np.testing.assert_allclose(cond.context[0], embeddings[[0, 2]].mean(axis=0), rtol=1e-5)
  assert not np.any(cond.clean[1]) and np.all(cond.clean[2] == jnp.float32(latents[2]))


def test_chunks_keep_the_views_that_stand_nearest():
  c2w, _ = cameras()
  assert sampler.nearest_views(c2w, c2w[3:4], 2) in ([2, 3], [3, 4])
  assert sampler.nearest_views(c2w[::-1], c2w[:2], 2) == [4, 5]
