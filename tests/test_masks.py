"""Editing a part: what is read, where the gradient goes, and that nothing outside changes."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from imx2mx_jax import diffusion, distill, masks, optim
from imx2mx_jax.errors import SceneError
from imx2mx_jax.scene import load_scene
from tests import textured

SIZE = 48


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("scene")
  textured.write(folder, angles=(-5, 5))
  return folder


def test_a_mask_is_cropped_like_its_photograph(folder, tmp_path):
  height, width = textured.HW
  for index in range(2):
    mask = np.zeros((height, width), np.uint8)
    mask[: height // 2, width // 2 :] = 255
    Image.fromarray(mask).save(tmp_path / f"{index}.png")
  scene = masks.masked(load_scene(folder, size=SIZE), tmp_path)
  wanted = np.zeros((2, SIZE, SIZE), bool)
  wanted[:, : SIZE // 2, SIZE // 2 :] = True
  np.testing.assert_array_equal(scene.masks, wanted)


def test_a_box_for_each_view_will_do(folder, tmp_path):
  file = tmp_path / "boxes.json"
  file.write_text(json.dumps({"0.png": [160, 0, 320, 120], "1.png": [40, 0, 280, 60]}))
  scene = masks.masked(load_scene(folder, size=SIZE), file)
  assert scene.masks[0, : SIZE // 2, SIZE // 2 :].all()
  np.testing.assert_allclose(scene.masks.mean(axis=(1, 2)), 0.25, atol=0.02)


@pytest.mark.parametrize(
  ("content", "told"),
  [
    ({"0.png": [0, 0, 320, 240]}, "no box for 1.png"),
    ({"0.png": [0, 0, 9, 9], "1.png": "all"}, "leaves nothing to edit"),
    ([], "holds no object"),
  ],
)
def test_what_is_wrong_with_boxes_is_told(folder, tmp_path, content, told):
  file = tmp_path / "boxes.json"
  file.write_text(json.dumps(content))
  with pytest.raises(SceneError, match=told):
    masks.masked(load_scene(folder, size=SIZE), file)


def test_a_mask_that_is_missing_or_of_another_size_is_told(folder, tmp_path):
  scene = load_scene(folder, size=SIZE)
  with pytest.raises(SceneError, match="no mask that can be read"):
    masks.masked(scene, tmp_path)
  Image.new("L", (30, 20), 255).save(tmp_path / "0.png")
  with pytest.raises(SceneError, match="30 x 20 pixels and its photograph 320 x 240"):
    masks.masked(scene, tmp_path)


def test_outside_the_mask_the_source_stays_and_the_seam_is_soft():
  rng = np.random.default_rng(0)
  sources, edited = rng.integers(0, 256, (2, 1, 96, 96, 3), dtype=np.uint8)
  mask = np.zeros((1, 96, 96), bool)
  mask[0, 20:70, 30:] = True
  out = masks.composite(sources, edited, mask)
  np.testing.assert_array_equal(out[~mask], sources[~mask])
  np.testing.assert_array_equal(out[0, 30:60, 40:], edited[0, 30:60, 40:])
  black, white = np.zeros_like(sources), np.full_like(sources, 255)
  seam = masks.composite(black, white, mask)[0, 45, 30:34, 0]
  assert 0 < seam[0] < seam[1] <= 255


@dataclasses.dataclass(frozen=True)
class Picture:
  """A student whose parameters are the latents that it predicts."""

  schedule: diffusion.StudentSchedule = diffusion.StudentSchedule()

  def predict(self, params, cond, zeta, tau):
    return params["zeta0"]


class Whiter:
  """A teacher that always sees too little noise."""

  def predict_noise(self, z_t, t, key_view):
    return jnp.ones_like(z_t)


def test_the_gradient_stays_inside_the_mask():
  rate = optim.LearningRate.over(10, peak=0.1, final=0.1, warmup=1)
  method = distill.Method(Picture(), rate, optim.optimizer(rate, clip_norm=1e9), (8, 8))
  latents = jnp.zeros((3, 8, 8, 4))
  params = {"student": {"zeta0": latents}, "mapping": {}}
  state = distill.DistillState(
    jnp.int32(0), params, method.optimizer.init(params), latents, latents, *jnp.int32([500, 0])
  )
  drawn = distill.Draws(jnp.int32(500), jnp.int32(0), jnp.zeros((2, 8, 8, 4)))
  allowed = np.zeros((2, 16, 16), bool)
  allowed[:, :8, :8] = True
  gate = masks.on_grid(allowed, (8, 8))
  new, _ = distill.distill_step(method, state, Whiter(), None, drawn, gate)
  moved = np.asarray(new.params["student"]["zeta0"] != 0)
  assert moved[1:, :4, :4].all()
  assert moved.sum() == 2 * 16 * 4
  ungated, _ = distill.distill_step(method, state, Whiter(), None, drawn)
  assert (ungated.params["student"]["zeta0"][1:] != 0).all()


def test_cells_that_are_masked_in_part_count_in_part():
  mask = np.zeros((1, 16, 16), bool)
  mask[0, :, :5] = True
  np.testing.assert_allclose(masks.on_grid(mask, (4, 4))[0, 0, :, 0], [1, 0.25, 0, 0])
