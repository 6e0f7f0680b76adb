"""The legend of array shapes, in one place.

| letter | axis                                                             |
|--------|------------------------------------------------------------------|
| N      | views that are edited                                            |
| T      | frames that the student sees: T = N + 1, the clean reference first |
| B      | batch rows; for the teacher, guidance branches x views, branch-major |
| H W    | pixels                                                           |
| h w    | latent cells                                                     |
| L M    | tokens: of the queries, of the keys                              |
| C D    | channels of a map, width of a token                              |
| n d    | attention heads, width of a head                                 |

Images are channels-last float32 in [-1, 1] inside the program and uint8 at its doors. Annotations
are checked in the tests only (jaxtyping's import hook); at run time they cost nothing.
"""

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Key, Num, UInt8

Array = jax.Array | np.ndarray | np.generic
"""What JAX computes with: its own arrays, NumPy's, and NumPy's scalars."""

Params = dict[str, jax.Array]
"""A network's parameters: a flat dict from "path/of/the/parameter" to its array."""

Size = int | tuple[int, int]
"""Pixels of a picture: a square's side, or height and width."""


def height_width(size: Size) -> tuple[int, int]:
  """Height and width of a picture of that size."""
  return (size, size) if isinstance(size, int) else size


__all__ = [
  "Array",
  "Bool",
  "Float",
  "Int",
  "Key",
  "Num",
  "Params",
  "Size",
  "UInt8",
  "height_width",
  "np",
]
