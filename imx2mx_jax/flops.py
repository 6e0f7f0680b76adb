"""How many floating-point operations a function needs: its matrix products and convolutions.

A multiplication and an addition are two. Everything else (norms, activations, softmax) is left out,
as is usual. What a loop does is counted as often as it does it, once where that is not known; of
branches, the dearest counts; what chips do by themselves counts for all of them.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

PEAK = {
  "TPU v4": 275.0,
  "TPU v5 lite": 197.0,
  "TPU v5": 459.0,
  "TPU v6 lite": 918.0,
  "NVIDIA A100": 312.0,
  "NVIDIA H100": 989.0,
  "NVIDIA H200": 989.0,
  "NVIDIA L40S": 362.0,
  "NVIDIA L40": 181.0,
  "NVIDIA L4": 121.0,
}
"""{beginning of a device's kind: its makers' TFLOP/s in bfloat16}; longer beginnings first."""


def count(function: Callable, *args: Any) -> int:
  """Of one call. args: arrays or ShapeDtypeStructs."""
  return of(jax.make_jaxpr(function)(*args).jaxpr)


def of(jaxpr: Any) -> int:
  """Of a function that JAX has traced."""
  return sum(_of_equation(equation) for equation in jaxpr.eqns)


def peak(devices: Sequence[Any]) -> float | None:
  """The TFLOP/s of equal devices together, in bfloat16; None where they are not known."""
  kind = devices[0].device_kind
  known = [rate for name, rate in PEAK.items() if kind.startswith(name)]
  return known[0] * len(devices) if known else None


def of_student(student: Any, shape: Any, frames: int, cells: tuple[int, int]) -> int:
  """SEVA's forward pass. student: its Network. shape: SevaShape. cells: sides of the latents."""
  return count(
    lambda net, *x: net(*x, frames=frames),
    student,
    _blank(frames, *cells, shape.in_channels),
    _blank(frames),
    _blank(frames, 1, shape.context_width),
    _blank(frames, *cells, shape.dense_channels),
  )


def of_teacher(
  teacher: Any,
  shape: Any,
  views: int,
  branches: int,
  grid: tuple[int, int],
  text: tuple[int, int],
) -> int:
  """The editor's forward pass over views that attend to one of them, in branches of guidance.

  teacher: the Network of a UNet. shape: UNetShape. grid: sides of the latents. text: tokens, width.
  """
  rows = branches * views
  return count(
    lambda net, *x: net(*x, key_view=np.int32(0), views=views),
    teacher,
    _blank(rows, *grid, shape.in_channels),
    _blank(),
    _blank(rows, *text),
  )


def of_iteration(student: int, teacher: int) -> int:
  """One iteration of the distillation from its forward passes: a backward pass counts twice."""
  return 3 * student + teacher


def _blank(*shape: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, np.float32)


def _of_equation(equation: Any) -> int:
  name, params = equation.primitive.name, equation.params
  if name == "dot_general":
    (contracted, _), _ = params["dimension_numbers"]
    left, result = equation.invars[0].aval, equation.outvars[0].aval
    return 2 * result.size * int(np.prod([left.shape[axis] for axis in contracted]))
  if name == "conv_general_dilated":
    kernel, result = equation.invars[1].aval, equation.outvars[0].aval
    outputs = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
    return 2 * result.size * (kernel.size // outputs)
  inner = [of(jaxpr) for jaxpr in core.jaxprs_in_params(params)]
  if name == "cond":
    return max(inner)
  times = params["length"] if name == "scan" else 1
  if name == "shard_map":
    times = math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"])
  return sum(inner) * times
