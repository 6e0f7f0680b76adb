"""Convolution behind one function.

XLA's own convolutions are the best there are on GPUs and TPUs. On CPUs their gradients are slow,
and ten times slower again inside a loop, so there a convolution is a matrix product of patches
(benchmarks/RESULTS.md has the figures).
"""

import jax
import jax.numpy as jnp

from imx2mx_jax.shapes import Array, Float

Padding = tuple[tuple[int, int], tuple[int, int]]

MOST_PATCH_ELEMENTS = 2**27
"""Above half a gigabyte of patches the CPU's own convolution is used after all."""


@jax.named_scope("convolution")
def convolution(
  x: Float[Array, "B h w C"], kernel: Float[Array, "i j C D"], stride: int, padding: Padding
) -> Float[Array, "B h2 w2 D"]:
  """Convolves x with the kernel; no bias. float32 means float32 on accelerators too."""
  height, width, c_in, _ = kernel.shape
  precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
  if height == width == 1:
    return jnp.matmul(x, kernel[0, 0], precision=precision)

  def xla(x, kernel):
    layout = ("NHWC", "HWIO", "NHWC")
    strides = (stride, stride)
    return jax.lax.conv_general_dilated(
      x, kernel, strides, padding, dimension_numbers=layout, precision=precision
    )

  def patches(x, kernel):
    columns = _patches(x, (height, width), stride, padding)
    return jnp.matmul(columns, kernel.reshape(-1, kernel.shape[-1]), precision=precision)

  cells = x.size // c_in // stride**2
  if cells * kernel[..., 0].size > MOST_PATCH_ELEMENTS:
    return xla(x, kernel)
  # The patches take nine times the memory of x: the gradient makes them again.
  return jax.lax.platform_dependent(x, kernel, cpu=jax.checkpoint(patches), default=xla)


def _patches(
  x: Float[Array, "B h w C"], size: tuple[int, int], stride: int, padding: Padding
) -> Float[Array, "B h2 w2 P"]:
  """The patch under the kernel at every place, in the order of the kernel's elements."""
  x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  rows, columns = (
    (side - extent) // stride + 1 for side, extent in zip(x.shape[1:3], size, strict=True)
  )
  taps = [
    x[:, i : i + rows * stride : stride, j : j + columns * stride : stride]
    for i in range(size[0])
    for j in range(size[1])
  ]
  return jnp.concatenate([tap[:, :rows, :columns] for tap in taps], axis=-1)
