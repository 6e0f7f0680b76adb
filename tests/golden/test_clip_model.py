"""The metric's CLIP equals transformers'."""

import jax.numpy as jnp
import pytest

from convert_weights.tables import clip as table
from imx2mx_jax.models.clip import Clip
from tests.golden import support

pytestmark = pytest.mark.golden


@support.cases("clip_model_tiny")
def test_embeddings_and_similarities_equal_the_reference(case):
  clip = case.network(Clip, table.shape(case["config"]), table.DIALECTS).module
  pixels = jnp.asarray(support.nhwc(case.input("pixel_values")))
  ids = jnp.asarray(case.input("input_ids"))
  ours = {
    "image_embeds": clip.embed_images(pixels),
    "text_embeds": clip.embed_texts(ids),
    "logits_per_image": clip(pixels, ids),
  }
  for key, value in ours.items():
    support.assert_close(value, case.tensor(key), **case["tolerance"], what=f"{case.name}: {key}")
