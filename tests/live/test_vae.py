"""The autoencoder equals diffusers'."""

import jax
import jax.numpy as jnp
import pytest

from convert_weights.tables import vae as table
from imx2mx_jax.models.vae import Vae
from tests.golden.support import nhwc
from tests.live import support

pytestmark = pytest.mark.torch


def test_moments_and_pictures_equal_diffusers(torch, tmp_path):
  from diffusers import AutoencoderKL

  levels = 3
  theirs = AutoencoderKL(
    block_out_channels=(12, 20, 28),
    down_block_types=("DownEncoderBlock2D",) * levels,
    up_block_types=("UpDecoderBlock2D",) * levels,
    layers_per_block=1,
    latent_channels=5,
    norm_num_groups=4,
  )
  support.randomise(theirs).save_pretrained(tmp_path)
  ours = support.converted(Vae, table, tmp_path)

  generator = torch.Generator().manual_seed(1)
  image = 2 * torch.rand(2, 3, 24, 44, generator=generator) - 1
  latents = torch.randn(2, 5, 7, 9, generator=generator)
  with torch.no_grad():
    posterior, decoded = theirs.encode(image).latent_dist, theirs.decode(latents).sample

  @jax.jit
  def run(network, image, latents):
    return *network.module.encode(image), network.module.decode(latents)

  found = run(ours, *(jnp.asarray(nhwc(x.numpy())) for x in (image, latents)))
  wanted = {"mean": posterior.mean, "logvar": posterior.logvar, "decoded": decoded}
  for (name, theirs), ours in zip(wanted.items(), found, strict=True):
    support.assert_equal(ours, theirs.movedim(1, -1), name)
