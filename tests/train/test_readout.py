"""With the read-out the noise reaches the output at every level, and r shrinks as it should."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imx2mx_jax import diffusion
from imx2mx_jax.micro import readout
from imx2mx_jax.models.network import Network, initialise
from imx2mx_jax.models.seva import Seva, SevaShape
from imx2mx_jax.models.unet import UNet, UNetShape

SEVA = SevaShape(
  channels=24,
  channel_mult=(1, 1),
  blocks_per_level=1,
  attention_downsamples=(2,),
  depths=(1, 1),
  head_width=12,
  context_width=8,
  joint=("middle_ds2",),
  groups=8,
)
UNET = UNetShape(
  channels=(24, 24),
  layers=1,
  down_attention=(True, True),
  heads=(2, 2),
  context_width=8,
  groups=8,
  up_attention=(True, False),
)
LEVELS = np.arange(0, 1000, 111)  # timesteps


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def seva_output(network, timesteps):
  rows = len(timesteps)
  latents, rest = normal(rows, 8, 8, 4), normal(rows, 8, 8, 7, seed=1)
  x = jnp.concatenate([latents, rest], axis=-1)
  context, maps = normal(rows, 1, 8, seed=2), normal(rows, 8, 8, 6, seed=3)
  return latents, network(x, jnp.asarray(timesteps), context, maps, frames=1)


def unet_output(network, timesteps):
  rows = len(timesteps)
  latents, source = normal(rows, 8, 8, 4), normal(rows, 8, 8, 4, seed=1)
  sample = jnp.concatenate([latents, source], axis=-1)
  return latents, network(sample, jnp.asarray(timesteps), normal(rows, 5, 8, seed=2))


CASES = {
  "seva": (Seva, SEVA, seva_output),
  "unet": (UNet, UNET, unet_output),
}
HEAVY = [pytest.param("seva", marks=pytest.mark.slow), "unet"]


@functools.cache
def made(name):
  cls, shape, output = CASES[name]
  network = initialise(cls, shape, 0)
  return network, readout.read_out(shape, jax.device_get(network.params)), output


def scales(name):
  if name == "unet":
    return 1 / diffusion.TeacherSchedule().alphas[LEVELS]
  return np.sqrt(1 + diffusion.StudentSchedule().sigmas[LEVELS] ** 2)


@pytest.mark.parametrize("name", HEAVY)
def test_without_a_rest_the_output_is_the_latents(name):
  network, read, output = made(name)
  block = next(path for path in read.fixed if path.endswith("conv2/kernel"))
  still = read.params | {block: 0 * read.params[block]}
  latents, found = output(Network(network.graphdef, still), LEVELS)
  np.testing.assert_allclose(found, latents, atol=5e-3)


@pytest.mark.parametrize("name", HEAVY)
def test_the_rest_shrinks_as_the_clean_latents_share_of_the_noise_does(name):
  network, read, output = made(name)
  latents, found = output(Network(network.graphdef, read.params), LEVELS)
  rest = np.sqrt(np.square(found - latents).mean(axis=(1, 2, 3))) * scales(name)
  assert rest.max() / rest.min() < 5, rest


@pytest.mark.parametrize("name", HEAVY)
def test_a_small_change_of_every_weight_changes_the_clean_estimate_little(name):
  network, read, output = made(name)
  size = scales(name)[-1]

  def estimate(params):
    return size * output(Network(network.graphdef, params), LEVELS[-1:])[1]

  rng = np.random.default_rng(0)
  params = readout.enlarge(CASES[name][1], read.params)
  step = {k: 1e-4 * rng.choice([-1, 1], x.shape).astype(np.float32) for k, x in params.items()}
  changed = {path: x + step[path] for path, x in params.items()}
  change = np.asarray(estimate(changed) - estimate(params))
  assert np.sqrt(np.square(change).mean()) < 0.3


@pytest.mark.parametrize("name", CASES)
def test_an_enlarged_network_is_the_same_function(name):
  network, read, output = made(name)
  large = readout.enlarge(CASES[name][1], read.params)
  of = lambda params: output(Network(network.graphdef, params), LEVELS)[1]
  np.testing.assert_allclose(of(large), of(read.params), atol=1e-3)
  back = readout.enlarge(CASES[name][1], large, 1 / readout.ENLARGEMENT)
  for path, array in read.params.items():
    np.testing.assert_array_equal(back[path], array)


@pytest.mark.parametrize("name", CASES)
def test_what_is_fixed_is_what_was_set(name):
  network, read, _ = made(name)
  assert read.params.keys() == network.params.keys()
  for path, array in read.params.items():
    assert array.shape == network.params[path].shape
    if path not in read.fixed and not path.endswith("norm2/bias"):
      np.testing.assert_array_equal(array, network.params[path])
  free = sum(x.size for x in read.params.values()) - sum(x.sum() for x in read.fixed.values())
  assert free > 0.8 * sum(x.size for x in read.params.values())


def test_a_transformer_after_the_last_block_leaves_no_read_out():
  with pytest.raises(ValueError, match="must not contain 1"):
    readout.read_out(SevaShape(), {})
  with pytest.raises(ValueError, match="must end with False"):
    readout.read_out(UNetShape(), {})


@pytest.mark.parametrize("name", CASES)
def test_float16_spares_the_read_out_if_what_is_delicate_stays(name):
  network, read, output = made(name)
  shape = CASES[name][1]
  params = readout.enlarge(shape, read.params)
  exact = readout.delicate(shape)
  halved = lambda path: np.asarray(params[path]).astype(np.float16).astype(np.float32)
  kept = {path: x if path.startswith(exact) else halved(path) for path, x in params.items()}
  lost = {path: halved(path) for path in params}

  top = LEVELS[-1:]
  errors = []
  for changed in (kept, lost):
    _, wanted = output(Network(network.graphdef, params), top)
    _, found = output(Network(network.graphdef, changed), top)
    errors.append(float(np.abs(found - wanted).max()))
  assert errors[0] < 1e-3 and errors[0] < errors[1] / 2
