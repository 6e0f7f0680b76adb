"""A read-out set by hand, with which a denoiser lets the noise pass from the first step on.

A noise-predicting network's clean estimate is z - sigma F: at sigma = 85 an error of .01 in F is
.85 standard deviations, and the group norm before the output discards the noise's mean and
amplitude. Within the released architecture the output can be made "scaled latents + r" after all:

- four channels of the first convolution copy the latents. The skip of the last residual block
  carries each as a pair (a, -a) beside a large constant in the same normalisation group, so that
  the group norm is linear in a; and silu(a) - silu(-a) = a, which the last convolution computes;
- r comes from that block's second convolution, whose output is added to the pairs. The norm before
  it has in each group one channel that the time drives to s = sqrt(1 + sigma^2), so r shrinks as
  1 / s, as the clean latents' part in F does.

All this makes the clean estimate sensitive to the weights of that block: `enlarge` gives the same
network with 64 times larger ones, which one of AdamW's steps, while a student is personalised,
changes 64 times less. Networks are trained as they are and stored enlarged.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from imx2mx_jax import diffusion
from imx2mx_jax.models.seva import SevaShape
from imx2mx_jax.models.unet import UNetShape
from imx2mx_jax.shapes import Array, Float, np

Arrays = Mapping[str, Array]

ENLARGEMENT = 64.0
_CONSTANT = 100.0  # beside a
_REDUCED = 1 / 8  # a after the norm: the last convolution's larger weights change relatively less
_LATENTS = 4


@dataclasses.dataclass(frozen=True)
class ReadOut:
  """params: with the read-out in them. fixed: where it is 1 they must not learn."""

  params: dict[str, np.ndarray]
  fixed: dict[str, Float[np.ndarray, "..."]]


@dataclasses.dataclass(frozen=True)
class _Places:
  """Where a network's read-out is. block: the last residual block. scale: s of every timestep."""

  conv_in: str
  time_embedding: str
  block: str
  groups: int
  scale: Float[np.ndarray, " S"]


def read_out(shape: UNetShape | SevaShape, params: Arrays) -> ReadOut:
  """The read-out of a UNet or a SEVA. ValueError where its last, finest level has transformers."""
  return _set(params, _places(shape))


def enlarge(
  shape: UNetShape | SevaShape, params: Arrays, factor: float = ENLARGEMENT
) -> dict[str, Any]:
  """The same function with the last residual block's output `factor` times as large.

  The norm behind it takes the factor out again. A power of two changes no bit of the others.
  """
  block = _places(shape).block
  ends = [f"{block}/{layer}/{part}" for layer in ("skip", "conv2") for part in ("kernel", "bias")]
  return {path: x * factor if path in ends else x for path, x in params.items()}


def delicate(shape: UNetShape | SevaShape) -> tuple[str, ...]:
  """Prefixes of the paths whose weights are too large, or count too much, for float16.

  None where a network of that shape can have no read-out.
  """
  try:
    at = _places(shape)
  except ValueError:
    return ()
  return (at.time_embedding, f"{at.block}/time", f"{at.block}/skip", "norm_out", "conv_out")


def _places(shape: UNetShape | SevaShape) -> _Places:
  if isinstance(shape, UNetShape):
    if shape.up_attention[-1]:
      raise ValueError("up_attention must end with False")
    block = f"up_blocks/{len(shape.channels) - 1}/resnets/{shape.layers}"
    scale = 1 / diffusion.TeacherSchedule().alphas
    return _Places("conv_in", "time_embedding", block, shape.groups, scale)
  if 1 in shape.attention_downsamples:
    raise ValueError("attention_downsamples must not contain 1")
  block = f"output_blocks/{len(shape.channel_mult) * (shape.blocks_per_level + 1) - 1}/0"
  scale = np.sqrt(1 + diffusion.StudentSchedule().sigmas.astype(np.float64) ** 2)
  return _Places("input_blocks/0/0", "time_embed", block, shape.groups, scale)


def _set(params: Arrays, at: _Places) -> ReadOut:
  new = {path: np.array(array) for path, array in params.items()}
  fixed: dict[str, np.ndarray] = {}

  def put(path: str, index: Any, value: float | np.ndarray) -> None:
    new[path][index] = value
    fixed.setdefault(path, np.zeros(new[path].shape, np.float32))[index] = 1

  everything = ...
  width = len(new["norm_out/scale"])
  size = width // at.groups  # channels of a group
  if size < 3 or at.groups < _LATENTS:
    raise ValueError(f"{width} channels in {at.groups} groups leave no room for the read-out")
  pairs = [(c * size, c * size + 1, c * size + 2) for c in range(_LATENTS)]  # a, -a, the constant

  # The first convolution: channel c is latent c.
  kernel = new[f"{at.conv_in}/kernel"]
  copy = np.zeros((*kernel.shape[:3], _LATENTS))
  copy[kernel.shape[0] // 2, kernel.shape[1] // 2, :_LATENTS] = np.eye(_LATENTS)
  put(f"{at.conv_in}/kernel", (..., slice(0, _LATENTS)), copy)
  put(f"{at.conv_in}/bias", (slice(0, _LATENTS),), 0)

  # The last block's skip: its input ends with the first convolution's output.
  skip, first = f"{at.block}/skip", new[f"{at.block}/skip/kernel"].shape[-2] - kernel.shape[-1]
  put(f"{skip}/kernel", everything, 0)
  put(f"{skip}/bias", everything, 0)
  for c, (plus, minus, constant) in enumerate(pairs):
    put(f"{skip}/kernel", (..., first + c, plus), 1)
    put(f"{skip}/kernel", (..., first + c, minus), -1)
    put(f"{skip}/bias", (constant,), _CONSTANT)

  # Its second convolution adds r to the pairs, and to nothing else.
  conv2 = f"{at.block}/conv2"
  used = np.zeros(width, bool)
  used[[channel for pair in pairs for channel in pair[:2]]] = True
  put(f"{conv2}/kernel", (..., ~used), 0)
  put(f"{conv2}/bias", (~used,), 0)

  # The norm before it: the last channel of each group is s, and does not go further.
  driven = np.arange(size - 1, width, size)
  put(f"{at.block}/conv1/kernel", (..., driven), 0)
  put(f"{at.block}/conv1/bias", (driven,), 0)
  weights, bias = _fit(new, at.time_embedding, at.scale)
  put(f"{at.block}/time/kernel", (slice(None), driven), weights[:, None])
  put(f"{at.block}/time/bias", (driven,), bias)
  put(f"{at.block}/norm2/scale", (driven,), 0)
  put(f"{at.block}/norm2/bias", (driven,), 0)
  # The other channels of a group with a large s tend to minus this much.
  mean = 1 / np.sqrt(size - 1)
  others = np.setdiff1d(np.arange(width), driven)
  new[f"{at.block}/norm2/bias"][others] = mean * new[f"{at.block}/norm2/scale"][others]
  for path in [path for path in new if path.startswith(f"{at.time_embedding}/")]:
    put(path, everything, new[path])

  # The last norm leaves the pairs reduced; the last convolution adds up each pair.
  deviation = _CONSTANT * np.sqrt(size - 1) / size
  put("norm_out/scale", everything, 0)
  put("norm_out/bias", everything, 0)
  put("conv_out/kernel", everything, 0)
  put("conv_out/bias", everything, 0)
  centre = new["conv_out/kernel"].shape[0] // 2
  for c, (plus, minus, _) in enumerate(pairs):
    for channel, sign in ((plus, 1), (minus, -1)):
      put("norm_out/scale", (channel,), deviation * _REDUCED)
      put("norm_out/bias", (channel,), _CONSTANT / size * _REDUCED)
      put("conv_out/kernel", (centre, centre, channel, c), sign / _REDUCED)
  return ReadOut(new, fixed)


def _fit(
  params: Arrays, time_embedding: str, scale: Float[np.ndarray, " S"]
) -> tuple[Float[np.ndarray, " D"], float]:
  """Weights and bias with which the residual block's time layer gives `scale` at every timestep."""
  silu = lambda x: x / (1 + np.exp(-x))
  layer = lambda x, name: (
    x @ params[f"{time_embedding}/{name}/kernel"].astype(np.float64)
    + params[f"{time_embedding}/{name}/bias"]
  )
  half = len(params[f"{time_embedding}/linear1/kernel"]) // 2
  angles = np.arange(len(scale))[:, None] * np.exp(-np.log(10000) * np.arange(half) / half)
  waves = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
  features = silu(layer(silu(layer(waves, "linear1")), "linear2"))
  features = np.pad(features, ((0, 0), (0, 1)), constant_values=1)
  relative = features / scale[:, None]  # least squares of the relative error
  damped = np.concatenate([relative, 1e-4 * np.eye(relative.shape[1])])
  wanted = np.concatenate([np.ones(len(scale)), np.zeros(relative.shape[1])])
  solution = np.linalg.lstsq(damped, wanted, rcond=None)[0]
  return solution[:-1], float(solution[-1])
