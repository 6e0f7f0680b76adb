"""Texts become the token ids that CLIP was trained on."""

import numpy as np
import pytest

from imx2mx_jax import tokenizer
from tests.golden import support
from tests.golden import tokenizer as clip_vocabulary

pytestmark = pytest.mark.golden


def test_token_ids_equal_the_reference(tmp_path):
  case = support.single("clip_tokens")
  ours = tokenizer.encode(
    tokenizer.load(clip_vocabulary.write(tmp_path)), case["texts"], truncate=True
  )
  np.testing.assert_array_equal(ours, case.tensor("ids"))
