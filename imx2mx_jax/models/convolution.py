"""Convolution behind one function.

XLA's own convolutions are the best there are, but for two cases on CPUs: with the axes in another
order, as in their own gradients, they take a hundred times longer inside a loop; and pictures of a
few cells take many times longer than a product of patches (benchmarks/RESULTS.md has the figures).
So on CPUs the gradients are convolutions of transposed arrays, their axes in the usual order, and
small pictures are taken apart into patches.
"""

import functools

import jax
import jax.numpy as jnp

from imx2mx_jax.shapes import Array, Float

Padding = tuple[tuple[int, int], tuple[int, int]]

SMALL = 36
"""Cells of a picture, below which CPUs take it apart into patches."""


@jax.named_scope("convolution")
def convolution(
  x: Float[Array, "B h w C"], kernel: Float[Array, "i j C D"], stride: int, padding: Padding
) -> Float[Array, "B h2 w2 D"]:
  """Convolves x with the kernel; no bias.

  float32 means float32 on accelerators too, unless jax.default_matmul_precision says otherwise.
  """
  if kernel.shape[:2] == (1, 1):
    return _matmul(x, kernel[0, 0])
  cells = x.shape[1] * x.shape[2] // stride**2
  return jax.lax.platform_dependent(
    x,
    kernel,
    cpu=lambda x, kernel: (_patches if cells < SMALL else _on_cpu)(x, kernel, stride, padding),
    default=lambda x, kernel: _xla(x, kernel, stride, padding),
  )


def _xla(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    padding,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    precision=_precision(x),
  )


def _patches(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
  columns = jnp.concatenate(_taps(x, kernel.shape[:2], stride, padding), axis=-1)
  return _matmul(columns, kernel.reshape(-1, kernel.shape[-1]))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _on_cpu(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
  return _xla(x, kernel, stride, padding)


def _forward(
  x: Array, kernel: Array, stride: int, padding: Padding
) -> tuple[Array, tuple[Array, Array]]:
  return _xla(x, kernel, stride, padding), (x, kernel)


def _backward(
  stride: int, padding: Padding, inputs: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
  x, kernel = inputs
  if stride > 1:
    return jax.vjp(lambda x, kernel: _patches(x, kernel, stride, padding), x, kernel)[1](gradient)
  opposite = tuple(
    (size - 1 - low, size - 1 - high)
    for size, (low, high) in zip(kernel.shape[:2], padding, strict=True)
  )
  of_x = _xla(gradient, kernel[::-1, ::-1].swapaxes(2, 3), 1, opposite)
  of_kernel = _xla(x.transpose(3, 1, 2, 0), gradient.transpose(1, 2, 0, 3), 1, padding)
  return of_x, of_kernel.transpose(1, 2, 0, 3)


_on_cpu.defvjp(_forward, _backward)


def _taps(x: Array, size: tuple[int, int], stride: int, padding: Padding) -> list[Array]:
  """What each of the kernel's elements meets: arrays [B h2 w2 C], in the elements' order."""
  x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  rows, columns = (
    (side - extent) // stride + 1 for side, extent in zip(x.shape[1:3], size, strict=True)
  )
  taps = [
    x[:, i : i + rows * stride : stride, j : j + columns * stride : stride]
    for i in range(size[0])
    for j in range(size[1])
  ]
  return [tap[:, :rows, :columns] for tap in taps]


def _matmul(x: Array, y: Array) -> Array:
  return jnp.matmul(x, y, precision=_precision(x))


def _precision(x: Array) -> jax.lax.Precision | None:
  if x.dtype != jnp.float32 or jax.config.jax_default_matmul_precision:
    return None
  return jax.lax.Precision.HIGHEST
