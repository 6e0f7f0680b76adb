"""CLIP's text tower equals transformers'."""

import jax.numpy as jnp
import pytest

from convert_weights.tables import clip_text as table
from imx2mx_jax.models.clip_text import ClipText
from tests.golden import support

pytestmark = pytest.mark.golden


@support.cases("clip_text_tiny")
def test_hidden_states_equal_the_reference(case):
  network = case.network(ClipText, table.shape(case["config"]), table.DIALECTS)
  support.assert_close(
    network(jnp.asarray(case.input("input_ids"))),
    case.tensor("last_hidden_state"),
    **case["tolerance"],
    what=case.name,
  )
