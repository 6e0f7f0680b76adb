"""How many floating-point operations a function needs: its matrix products and convolutions.

A multiplication and an addition are two. Everything else (norms, activations, softmax) is left out,
as is usual. What a loop does is counted as often as it does it; of branches, the dearest counts.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def count(function: Callable, *args: Any) -> int:
  """Of one call. args: arrays or ShapeDtypeStructs. ValueError for a loop of unknown length."""
  return _of(jax.make_jaxpr(function)(*args).jaxpr)


def of_iteration(student: int, teacher: int) -> int:
  """One iteration of the distillation from its forward passes: a backward pass counts twice."""
  return 3 * student + teacher


def _of(jaxpr: Any) -> int:
  return sum(_of_equation(equation) for equation in jaxpr.eqns)


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
  if name == "while":
    raise ValueError("how often a while loop runs is not known")
  inner = [_of(jaxpr) for jaxpr in jax.core.jaxprs_in_params(params)]
  if name == "cond":
    return max(inner)
  return sum(inner) * (params["length"] if name == "scan" else 1)
