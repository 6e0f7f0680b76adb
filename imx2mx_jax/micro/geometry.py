"""The four solids of the micro world and where rays meet them, exactly; for NumPy and for JAX.

A solid is what lies inside a quadric x² + y² + bend z² + slope z + base <= 0, inside the slab
0 <= z <= top and inside |x|, |y| <= half, in coordinates of its own: turned by its yaw, in units of
its size, standing on z = 0. So a ray is inside of it on one interval.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from imx2mx_jax.shapes import Array, Float, np

_FAR = 1e3  # a bound that never binds
_TINY = 1e-9  # a direction's component where the true one is zero

_SPHERE, _CUBE = 0.62, 0.52  # radius, half a side
_CYLINDER, _CYLINDER_TOP = 0.48, 1.15
_CONE, _CONE_TOP = 0.62, 1.35
_TAPER = _CONE / _CONE_TOP

_QUADRICS = {  # shape: bend, slope, base, top, half
  "sphere": (1.0, -2 * _SPHERE, 0.0, 2 * _SPHERE, _FAR),
  "cube": (0.0, 0.0, -(_FAR**2), 2 * _CUBE, _CUBE),
  "cylinder": (0.0, 0.0, -(_CYLINDER**2), _CYLINDER_TOP, _FAR),
  "cone": (-(_TAPER**2), 2 * _TAPER * _CONE, -(_CONE**2), _CONE_TOP, _FAR),
}

SHAPES = tuple(_QUADRICS)
FIELDS = ("bend", "slope", "base", "top", "half", "x", "y", "size", "cos", "sin")

Vector = tuple[Any, Any, Any]
"""Three components, each an array of any shape or a number."""


@dataclasses.dataclass(frozen=True)
class Solids:
  """Solids as columns [O 1], against which rays [R] are held. FIELDS says which numbers they are.

  size 0 is no solid.
  """

  bend: Any
  slope: Any
  base: Any
  top: Any
  half: Any
  x: Any
  y: Any
  size: Any
  cos: Any
  sin: Any

  def point(self, p: Vector) -> Vector:
    """A point of the world in each solid's own coordinates."""
    return self.direction((p[0] - self.x, p[1] - self.y, p[2]))

  def direction(self, d: Vector) -> Vector:
    """A direction of the world in each solid's own coordinates; lengths along rays remain."""
    scale = 1 / (self.size + (self.size == 0))
    x, y, z = (component * scale for component in d)
    return self.cos * x + self.sin * y, self.cos * y - self.sin * x, z


def columns(shape: str, x: float, y: float, size: float, yaw: float) -> tuple[float, ...]:
  """One solid's numbers, in the order of FIELDS. size in metres, yaw in radians about z."""
  return (*_QUADRICS[shape], x, y, size, float(np.cos(yaw)), float(np.sin(yaw)))


def solids(rows: Float[Array, "O 10"]) -> Solids:
  """Solids from rows of `columns`."""
  return Solids(*(rows[:, i : i + 1] for i in range(len(FIELDS))))


def inside(solids: Solids, origin: Vector, direction: Vector) -> tuple[Array, Array]:
  """Where rays origin + t direction enter and leave solids: t, both [O R].

  enter >= leave where a ray misses.
  """
  o, d = solids.point(origin), solids.direction(direction)
  enters, leaves = zip(_in_quadric(solids, o, d), *_in_slabs(solids, o, d), strict=True)
  xp = _namespace(enters[0])
  enter, leave = _most(xp.maximum, enters), _most(xp.minimum, leaves)
  return enter, xp.where(solids.size > 0, leave, -xp.inf)


def normals(solids: Solids, origin: Vector, direction: Vector) -> Vector:
  """The unit normals where rays enter solids, each component [O R]; without meaning elsewhere."""
  o, d = solids.point(origin), solids.direction(direction)
  enters = [_in_quadric(solids, o, d)[0], *(enter for enter, _ in _in_slabs(solids, o, d))]
  xp = _namespace(enters[0])
  t = _most(xp.maximum, enters)
  x, y, z = (a + t * b for a, b in zip(o, d, strict=True))
  z = solids.bend * z + solids.slope / 2
  scale = 1 / xp.maximum(xp.sqrt(x * x + y * y + z * z), _TINY)
  faces = [enter == t for enter in enters[1:]]
  flat = faces[0] | faces[1] | faces[2]
  x, y, z = (
    xp.where(face, -xp.sign(along), xp.where(flat, 0, component * scale))
    for face, along, component in zip(faces, d, (x, y, z), strict=True)
  )
  return solids.cos * x - solids.sin * y, solids.sin * x + solids.cos * y, z


def rays(c2w: Float[np.ndarray, "V 4 4"], K: Float[np.ndarray, "3 3"], side: int) -> Vector:
  """Directions [V side²], spread over each picture, of length 1 along the viewing axis. NumPy.

  Each row is shifted by the golden ratio, so that an upright sliver hits as many as it is wide.
  """
  x, y = np.meshgrid(np.arange(side), np.arange(side))
  x = (x + y * 0.618034 % 1) / side
  u, v = (x - K[0, 2]) / K[0, 0], ((y + 0.5) / side - K[1, 2]) / K[1, 1]
  seen = np.stack([u.ravel(), v.ravel(), np.ones(side**2)])
  return tuple(np.moveaxis(c2w[:, :3, :3] @ seen, 1, 0))


def _in_quadric(solids: Solids, o: Vector, d: Vector) -> tuple[Array, Array]:
  a = d[0] * d[0] + d[1] * d[1] + solids.bend * d[2] * d[2]
  b = o[0] * d[0] + o[1] * d[1] + (solids.bend * o[2] + solids.slope / 2) * d[2]
  c = o[0] * o[0] + o[1] * o[1] + (solids.bend * o[2] + solids.slope) * o[2] + solids.base
  xp = _namespace(b)
  a = xp.where(abs(a) < _TINY, _TINY, a)
  discriminant = b * b - a * c
  root = xp.sqrt(xp.maximum(discriminant, 0))
  q = -(b + xp.where(b < 0, -root, root))
  one, other = q / a, c / xp.where(q == 0, _TINY, q)
  first, second = xp.minimum(one, other), xp.maximum(one, other)
  # A ray steeper than a cone's side is inside before the first and behind the second: of the cone
  # proper, and of its image above the tip. Which is which depends on where it goes.
  down = d[2] < 0
  enter = xp.where(a > 0, first, xp.where(down, second, -xp.inf))
  leave = xp.where(a > 0, second, xp.where(down, xp.inf, first))
  return enter, xp.where(discriminant >= 0, leave, -xp.inf)


def _in_slabs(solids: Solids, o: Vector, d: Vector) -> list[tuple[Array, Array]]:
  bounds = ((-solids.half, solids.half), (-solids.half, solids.half), (0 * solids.top, solids.top))
  return [_in_slab(*slab, *ray) for slab, ray in zip(bounds, zip(o, d, strict=True), strict=True)]


def _in_slab(low: Array, high: Array, o: Array, d: Array) -> tuple[Array, Array]:
  xp = _namespace(d)
  inverse = 1 / xp.where(abs(d) < _TINY, _TINY, d)
  one, other = (low - o) * inverse, (high - o) * inverse
  return xp.minimum(one, other), xp.maximum(one, other)


def _most(choose: Any, values: Sequence[Array]) -> Array:
  most = values[0]
  for value in values[1:]:
    most = choose(most, value)
  return most


def _namespace(x: Array) -> Any:
  """numpy or jax.numpy."""
  return x.__array_namespace__()
