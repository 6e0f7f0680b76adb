"""The models in their released size, filled by the recipe, equal the libraries'.

Each takes gigabytes and a minute. Activations are compared module by module in the order of
computation, so that the first difference names the place.
"""

import os.path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from convert_weights import names
from imx2mx_jax.models.network import Network
from tests.golden import support

pytestmark = [pytest.mark.golden, pytest.mark.slow]


def unet(case: support.Case):
  from convert_weights.tables import unet as table
  from imx2mx_jax.models.unet import UNet

  sample, context = picture(case, "sample"), jnp.asarray(case.input("encoder_hidden_states"))
  timestep, key_view = jnp.asarray(case["timestep"]), case["key_frame"]
  key_view = None if key_view is None else jnp.asarray(key_view)

  def run(module):
    views = case["num_frames"]
    return {"output": module(sample, timestep, context, key_view=key_view, views=views)}

  return UNet, table, run


def controlnet(case: support.Case):
  from convert_weights.tables import controlnet as table
  from imx2mx_jax.models.controlnet import ControlNet

  sample, context = picture(case, "sample"), jnp.asarray(case.input("encoder_hidden_states"))
  timestep, image = jnp.asarray(case["timestep"]), picture(case, "control_image")

  def run(module):
    down, middle = module(sample, timestep, context, image)
    return {"output": middle} | {f"down_residual.{i}": x for i, x in enumerate(down)}

  return ControlNet, table, run


def vae(case: support.Case):
  from convert_weights.tables import vae as table
  from imx2mx_jax.models.vae import Vae

  image, latent = picture(case, "image"), picture(case, "latent")
  return (
    Vae,
    table,
    lambda module: {
      "mean": module.encode(image)[0],
      "output": module.decode(latent),
    },
  )


def clip_text(case: support.Case):
  from convert_weights.tables import clip_text as table
  from imx2mx_jax.models.clip_text import ClipText

  ids = jnp.asarray(case.input("input_ids"))
  return ClipText, table, lambda module: {"output": module(ids)}


def clip_vision(case: support.Case):
  from convert_weights.tables import clip_vision as table
  from imx2mx_jax.models.clip_vision import ClipVision

  image = picture(case, "image")
  return ClipVision, table, lambda module: {"output": module(image)}


KINDS = {
  "unet_instruct_pix2pix": unet,
  "unet_sd15": unet,
  "controlnet_sd15": controlnet,
  "vae_sd15": vae,
  "vae_sd21": vae,
  "clip_vit_l14_text": clip_text,
  "openclip_vit_h14_visual": clip_vision,
}


def picture(case: support.Case, key: str) -> jax.Array:
  return jnp.asarray(support.nhwc(case.input(key)))


def our_path(network: Network, dialect: names.Table, module: str) -> str:
  """The path of the innermost layer that has all parameters of a released module."""
  rows = names.assignments({path: x.shape for path, x in network.params.items()}, dialect)
  inside = [row.path for row in rows if row.released.startswith(f"{module}.")]
  layers = {"/".join(map(str, path)) for path, x in nnx.iter_modules(network.module) if callable(x)}
  path = os.path.commonpath(map(os.path.dirname, inside))
  while path not in layers:  # a list of layers
    path = os.path.dirname(path)
  return path


def forward(network: Network, run, paths: dict[str, str]):
  """What `run` gives, and the outputs of the layers {name: path}, all in PyTorch's layout."""

  @jax.jit
  def compute(network):
    module = network.module
    with support.record(module, "|".join(paths.values())) as recorded:
      outputs = run(module)
    return outputs | {name: recorded[path] for name, path in paths.items()}

  layout = lambda x: support.nchw(x) if x.ndim == 4 else x
  last = lambda x: x[-1] if isinstance(x, list) else x  # a down block gives all its maps
  return {name: layout(last(x)) for name, x in compute(network).items()}


@support.cases("released")
def test_released_size_equals_the_reference(case):
  cls, table, run = KINDS[case["model"]](case)
  network = case.network(cls, table.shape(case["config"]), table.DIALECTS)
  assert sum(x.size for x in network.params.values()) == case["parameter_count"]

  listed = [name.removeprefix("act:") for name in case["fingerprints"]["activations"]["names"]]
  modules = [name for name in listed if not name.startswith("down_residual")]
  paths = {name: our_path(network, table.DIALECTS[0], name) for name in modules}
  ours = forward(network, run, paths)

  activations = {f"act:{name}": ours[name] for name in listed}
  case.check_fingerprints("activations", activations, case.tolerance("activation_rel_l2"))
  for key in case["tensors"]:
    support.assert_close(
      ours[key],
      case.tensor(key),
      atol=case.tolerance("output_atol"),
      rtol=case.tolerance("output_rtol"),
      what=f"{case.name}: {key}",
    )
