"""A whole UNet with random cross-view attention equals diffusers' with the authors' processor."""

import jax
import jax.numpy as jnp
import pytest

from convert_weights.tables import unet as table
from imx2mx_jax.models.unet import UNet
from tests.golden import support

pytestmark = pytest.mark.golden


@support.cases("rcvunet")
def test_each_key_view_gives_the_reference_output(case):
  network = case.network(UNet, table.shape(case["config"]), table.DIALECTS)
  sample = jnp.asarray(support.nhwc(case.input("sample")))
  timestep = jnp.asarray(case["timestep"])
  context = jnp.asarray(case.input("encoder_hidden_states"))
  views = case["num_frames"]

  @jax.jit
  def predict(network, key_view=None):
    return network(sample, timestep, context, key_view=key_view, views=views)

  for key in case["tensors"]:
    key_view = None if key == "output.absent" else jnp.asarray(int(key.removeprefix("output.")))
    support.assert_close(
      support.nchw(predict(network, key_view)),
      case.tensor(key),
      atol=case.tolerance("atol"),
      rtol=case.tolerance("rtol"),
      what=f"{case.name}: {key}",
    )
