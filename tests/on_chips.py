"""Prints how far networks that four CPU devices share are from those on one device.

    python -m tests.on_chips

A line of JSON, {what was computed: the largest difference, relative to the largest value}.
"""

import dataclasses
import json
import os

CHIPS = 4


def main() -> None:
  """Computes and prints."""
  os.environ["JAX_PLATFORMS"] = "cpu"
  flags = f"--xla_force_host_platform_device_count={CHIPS}"
  os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
  print(json.dumps(_students() | _teachers()))


def _students() -> dict[str, float]:
  """SEVA with maps divided by lines, cells and channels, and the gradients."""
  import jax
  import jax.numpy as jnp

  from imx2mx_jax.models.network import Network, initialise
  from imx2mx_jax.models.seva import Seva
  from tests import tiny

  shape = dataclasses.replace(
    tiny.SEVA,
    channel_mult=(1, 4),
    attention_downsamples=(1, 2),
    depths=(1, 1),
    joint=("middle_ds2", "output_ds1"),
  )
  net, normal = initialise(Seva, shape, 0), _normal()
  inputs = normal(4, 16, 16, 11), jnp.full(4, 300), normal(4, 1, 16), normal(4, 16, 16, 6)

  def loss(params, x):
    y = Network(net.graphdef, params)(x, *inputs[1:], frames=4)
    return jnp.sum(y * jnp.cos(jnp.arange(y.size).reshape(y.shape))), y

  gradient = jax.value_and_grad(loss, (0, 1), has_aux=True)
  (_, y), (of_params, of_x) = _computed(gradient, net.params, inputs[0], chips=1)
  (_, y4), (of_params4, of_x4) = _computed(gradient, net.params, inputs[0], chips=CHIPS)
  largest = max(abs(x).max() for x in of_params.values())
  worst = max(abs(of_params[path] - of_params4[path]).max() for path in of_params)
  return {
    "student": _difference(y, y4),
    "its gradient to the input": _difference(of_x, of_x4),
    "its gradient to the weights": float(worst / largest),
  }


def _teachers() -> dict[str, float]:
  """Both teachers, three views: rows that four chips do not divide."""
  import jax.numpy as jnp

  from imx2mx_jax import teachers
  from imx2mx_jax.models.controlnet import ControlNet, ControlNetShape
  from imx2mx_jax.models.network import initialise
  from imx2mx_jax.models.unet import TrunkShape, UNet
  from tests import tiny

  normal = _normal()
  unet = initialise(UNet, tiny.UNET, 1)
  plain = initialise(UNet, dataclasses.replace(tiny.UNET, in_channels=4), 2)
  trunk = {field.name: getattr(tiny.UNET, field.name) for field in dataclasses.fields(TrunkShape)}
  shape = ControlNetShape(**trunk | {"in_channels": 4, "hint_channels": (8, 16)})
  control = initialise(ControlNet, shape, 3)
  text, null, latents = normal(7, 16), normal(7, 16), normal(3, 8, 8, 4)
  editor = teachers.InstructPix2Pix(
    unet, text, null, normal(3, 8, 8, 4), jnp.float32(7), jnp.float32(1.5)
  )
  pictures = abs(normal(3, 16, 16, 3))
  drawn = teachers.StableDiffusion(plain, text, null, jnp.float32(7), control, pictures)
  cases = {
    "a key view": (editor, jnp.int32(1)),
    "each view itself": (editor, None),
    "all views": (dataclasses.replace(editor, extended=True), jnp.int32(1)),
    "a ControlNet": (drawn, jnp.int32(2)),
  }
  predict = lambda teacher, key: teacher.predict_noise(latents, jnp.int32(700), key)
  return {
    name: _difference(*(_computed(predict, *case, chips=chips) for chips in (1, CHIPS)))
    for name, case in cases.items()
  }


def _computed(function, *args, chips: int):
  import jax

  from imx2mx_jax import sharding

  mesh = sharding.make_mesh(1, chips)
  with sharding.on(mesh):
    return jax.device_get(jax.jit(function)(*sharding.put(mesh, args)))


def _difference(one, other) -> float:
  return float(abs(one - other).max() / abs(one).max())


def _normal():
  import numpy as np

  rng = np.random.default_rng(0)
  return lambda *shape: rng.standard_normal(shape).astype(np.float32)


if __name__ == "__main__":
  main()
