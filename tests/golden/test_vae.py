"""The autoencoder equals diffusers' AutoencoderKL."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convert_weights import names
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


@pytest.mark.parametrize("convolutions", [False, True], ids=["linear", "1x1_convolutions"])
@support.cases("vae_tiny")
def test_old_attention_names_give_the_same_parameters(case, convolutions):
  listing = support.GOLDEN / "names/vae_sd15.json"
  if not listing.exists():
    pytest.skip(f"no names/ in {support.GOLDEN.name}")
  old_names = json.loads(listing.read_text())["old_names"]
  network = case.network(Vae, table.shape(case["config"]), table.DIALECTS)
  source = support.released(network.params, table.DIALECTS[0])
  for old, present in old_names.items():
    weight = source.pop(present)
    source[old] = weight[:, :, None, None] if convolutions and weight.ndim == 2 else weight

  shapes = lambda tensors: {name: x.shape for name, x in tensors.items()}
  rows = names.plan(shapes(network.params), shapes(source), table.DIALECTS)
  for path, found in names.convert(rows, source.__getitem__):
    np.testing.assert_array_equal(found, network.params[path], err_msg=path)
