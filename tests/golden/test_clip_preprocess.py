"""Pictures reach the image encoder as SEVA's program prepares them."""

import jax.numpy as jnp
import numpy as np
import pytest

from imx2mx_jax.models.clip_vision import ClipVisionShape, preprocess
from imx2mx_jax.scene import load_scene
from tests.golden import support

pytestmark = pytest.mark.golden


def image(case: support.Case) -> np.ndarray:
  """The case's picture, [1 H W 3]."""
  spec = case["inputs"]["image"]
  if spec["recipe"] != "scene_crop":
    return support.nhwc(case.input("image"))
  folder = support.scenes_folder() / spec["scene"]
  crop = load_scene(folder, size=576, authors=True).images[spec["frame"]]
  start, pixels = (576 - spec["centre_crop"]) // 2, spec["centre_crop"]
  return crop[None, start : start + pixels, start : start + pixels]


@support.cases("clip_preprocess")
def test_prepared_pictures_equal_the_reference(case):
  shape = ClipVisionShape()
  ours = support.nchw(preprocess(jnp.asarray(image(case)), shape.image_size, shape.mean, shape.std))
  parts = {
    "output": ours,
    "output_strided": ours[..., ::7, ::7],
    "output_patch": ours[..., 80:144, 80:144],
    "output_corner": ours[..., :32, -32:],
  }
  for key in case["tensors"]:
    support.assert_close(
      parts[key], case.tensor(key), atol=case.tolerance("atol"), what=f"{case.name}: {key}"
    )
  case.check_fingerprints("output", {"output": ours}, case.tolerance("fp_rel_l2"))
