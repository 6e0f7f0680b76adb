"""The autoencoder equals diffusers' AutoencoderKL."""

import jax
import jax.numpy as jnp
import pytest

from convert_weights.tables import vae as table
from imx2mx_jax.models.vae import Vae
from tests.golden import support

pytestmark = pytest.mark.golden


@support.cases("vae_tiny")
def test_moments_and_decoded_picture_equal_the_reference(case):
  network = case.network(Vae, table.shape(case["config"]), table.DIALECTS)

  @jax.jit
  def run(network, image, latent):
    mean, logvar = network.module.encode(image)
    return {"mean": mean, "logvar": logvar, "decoded": network.module.decode(latent)}

  inputs = (jnp.asarray(support.nhwc(case.input(key))) for key in ("image", "latent"))
  for key, ours in run(network, *inputs).items():
    support.assert_close(
      support.nchw(ours),
      case.tensor(key),
      atol=case.tolerance("atol"),
      rtol=case.tolerance("rtol"),
      what=f"{case.name}: {key}",
    )
