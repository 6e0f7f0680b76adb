"""The image encoder equals open_clip's, block by block."""

import jax.numpy as jnp
import numpy as np
import pytest

from convert_weights.tables import clip_vision as table
from imx2mx_jax.models.clip_vision import ClipVision, preprocess
from tests.golden import support

pytestmark = pytest.mark.golden


@support.cases("openclip_vision_tiny")
def test_blocks_and_embedding_equal_the_reference(case):
  shape = table.shape(case["config"])
  module = case.network(ClipVision, shape, table.DIALECTS).module
  pixels = jnp.asarray(support.nhwc(case.input("image")))
  if "-> preprocess" in case["pipeline"]:
    pixels = preprocess(pixels, shape.image_size, shape.mean, shape.std)

  with support.record(module, r"blocks/\d+") as blocks:
    embedding = module(pixels)

  released = {
    f"act:visual.transformer.resblocks.{path.split('/')[1]}": x for path, x in blocks.items()
  }
  case.check_fingerprints("blocks", released, case.tolerance("fp_rel_l2"))
  tolerance = {key: case.tolerance(key) for key in ("atol", "rtol")}
  support.assert_close(embedding, case.tensor("embedding"), **tolerance, what=case.name)
  support.assert_close(
    np.mean(embedding, axis=0), case.tensor("mean_embedding"), **tolerance, what=case.name
  )
