"""Pictures, depth and ids of micro worlds: exact ray casting with hard shadows, as a JAX program.

The light is Lambert's with an ambient part; nothing is textured but patterned objects and the
checkers, which fade to their mean with distance. The numbers, but the patterns', were read off
scenes of the first micro models, which lie beside the golden tensors.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from imx2mx_jax.micro import geometry
from imx2mx_jax.micro.world import MOST_OBJECTS, PATTERNS, Object, World
from imx2mx_jax.shapes import Array, Float, Int, np

_COLORS = {
  "red": (0.85, 0.10, 0.10),
  "orange": (1.00, 0.50, 0.05),
  "yellow": (0.97, 0.88, 0.15),
  "green": (0.10, 0.62, 0.18),
  "cyan": (0.15, 0.80, 0.85),
  "blue": (0.12, 0.25, 0.90),
  "purple": (0.55, 0.12, 0.75),
  "white": (0.95, 0.95, 0.95),
}
_FLOORS = {  # the fields, odd and even
  "grass": ((0.36, 0.55, 0.20), (0.36, 0.55, 0.20)),
  "sand": ((0.86, 0.74, 0.52), (0.86, 0.74, 0.52)),
  "snow": ((0.90, 0.92, 0.95), (0.90, 0.92, 0.95)),
  "stone": ((0.45, 0.45, 0.48), (0.45, 0.45, 0.48)),
  "clay": ((0.60, 0.30, 0.20), (0.60, 0.30, 0.20)),
  "checkers": ((0.80, 0.80, 0.82), (0.20, 0.20, 0.23)),
}
_SKIES = {  # background, ambient light, sunlight
  "day": ((0.55, 0.78, 0.98), (0.42, 0.42, 0.42), (0.75, 0.75, 0.75)),
  "sunset": ((0.96, 0.42, 0.42), (0.42, 0.29, 0.27), (0.80, 0.48, 0.28)),
  "night": ((0.04, 0.05, 0.16), (0.20, 0.22, 0.32), (0.28, 0.31, 0.46)),
}

_HORIZON = 200.0  # metres along a ray, from where on the floor is sky
_RAISED = 1e-3  # metres above a surface, from where the sun is looked for
_FIELD = 1.5  # the checkers' side; one field's middle is the origin
_FADE = (3.0, 5.5)  # metres from the origin between which checkers fade to their mean
_STRIPE = 0.26  # a level stripe's width, in units of the object's size
_DOTS = (0.52, 0.19)  # distance between dots, and their radius

Arrays = dict[str, Array]
"""Worlds as numbers: solids [B O 10], color and color2 [B O 3], pattern [B O], floor [B 2 3],
sky [B 3 3] (background, ambient light, sunlight), light [B 3]."""


def arrays(worlds: Sequence[World]) -> Arrays:
  """The worlds' numbers, float32 (patterns int32), stacked along a first axis of B worlds."""
  empty = ((0.0,) * len(geometry.FIELDS), (0.0,) * 3, (0.0,) * 3, 0)
  rows = [[_numbers(obj) for obj in world.objs] for world in worlds]
  objects = [row + [empty] * (MOST_OBJECTS - len(row)) for row in rows]
  solids, color, color2, pattern = (
    [[obj[i] for obj in row] for row in objects] for i in range(len(empty))
  )
  return {
    "solids": np.array(solids, np.float32),
    "color": np.array(color, np.float32),
    "color2": np.array(color2, np.float32),
    "pattern": np.array(pattern, np.int32),
    "floor": np.array([_FLOORS[world.floor] for world in worlds], np.float32),
    "sky": np.array([_SKIES[world.sky] for world in worlds], np.float32),
    "light": np.array([world.light for world in worlds], np.float32),
  }


def render(
  world: Arrays,
  c2w: Float[Array, "*V 4 4"],
  K: Float[Array, "3 3"],
  size: int,
  samples: int = 1,
) -> tuple[Float[Array, "*V S S 3"], Float[Array, "*V S S"], Int[Array, "*V S S"]]:
  """Views of one world: pictures in [-1, 1], depth in metres, ids.

  world: a row of `arrays`. c2w: OpenCV axes. K: in units of the picture's side. samples: rays along
  a pixel's side of which its colour is the mean; depth (along the viewing axis, 0 is sky) and ids
  (0 sky, 1 floor, 2.. objects) are those of one ray through its centre.

  For many worlds, jax.vmap it; `size` and `samples` are static.
  """
  world = jax.tree.map(jnp.asarray, world)
  view = lambda pose: _view(world, pose, K, size, samples)
  *lead, _, _ = c2w.shape
  images, depth, ids = jax.vmap(view)(jnp.asarray(c2w, jnp.float32).reshape(-1, 4, 4))
  return tuple(x.reshape(*lead, *x.shape[1:]) for x in (images, depth, ids))


def _numbers(obj: Object) -> tuple:
  solid = geometry.columns(obj.shape, obj.x, obj.y, obj.s, obj.yaw)
  color = _COLORS[obj.color]
  return solid, color, _COLORS.get(obj.color2, color), PATTERNS.index(obj.pattern)


def _view(
  world: Arrays, c2w: Array, K: Array, size: int, samples: int
) -> tuple[Array, Array, Array]:
  cast = lambda place: _cast(world, c2w, K, size, place)
  places = (np.arange(samples, dtype=np.float32) + 0.5) / samples
  grid = np.stack(np.meshgrid(places, places), axis=-1).reshape(-1, 2)
  # One after the other: all at once is slower on CPUs.
  rgb = jax.lax.map(lambda place: cast(place)[0], jnp.asarray(grid))
  _, depth, ids = cast(jnp.full(2, 0.5))
  rgb = rgb.mean(axis=0).reshape(3, size, size)
  return jnp.moveaxis(rgb, 0, -1) * 2 - 1, depth.reshape(size, size), ids.reshape(size, size)


def _cast(
  world: Arrays, c2w: Array, K: Array, size: int, place: Float[Array, "2"]
) -> tuple[Array, Array, Array]:
  """Colours [3 R] in [0, 1], depth [R] and ids [R], by a ray through that place of each pixel."""
  solids = geometry.solids(world["solids"])
  eye, light = tuple(c2w[:3, 3]), tuple(world["light"])
  ray = _rays(c2w, K, size, place)

  enter, leave = geometry.inside(solids, eye, ray)
  enter = jnp.where((enter < leave) & (enter > 0), enter, jnp.inf)
  length = jnp.sqrt(ray[0] * ray[0] + ray[1] * ray[1] + ray[2] * ray[2])
  below = ray[2] * _HORIZON < -eye[2] * length
  floor = jnp.where(below, eye[2] / jnp.where(below, -ray[2], 1), jnp.inf)
  object_ = enter.min(axis=0)
  thing, nearest = object_ < floor, jnp.minimum(object_, floor)
  own, sky = (enter == nearest) & thing, nearest == jnp.inf
  of_own = lambda x: jnp.where(own, x, 0).sum(axis=-2)  # [O R] -> [R], [3 O R] -> [3 R]

  at = tuple(o + jnp.where(sky, 0, nearest) * d for o, d in zip(eye, ray, strict=True))
  normal = tuple(of_own(component) for component in geometry.normals(solids, eye, ray))
  normal = (*normal[:2], jnp.where(thing, normal[2], 1))
  raised = tuple(p + _RAISED * n for p, n in zip(at, normal, strict=True))
  enter, leave = geometry.inside(solids, raised, light)
  shadows = (enter < leave) & (leave > 0) & ~own
  shadow = jnp.where(shadows, 1.0, 0.0).max(axis=0)  # `any` is ten times as slow on CPUs
  cosine = sum(n * towards for n, towards in zip(normal, light, strict=True))
  shine = (1 - shadow) * jnp.maximum(cosine, 0)

  paint = jnp.where(thing, of_own(_painted(world, solids, at)), _floor(world["floor"], at))
  background, ambient, sun = (row[:, None] for row in world["sky"])
  rgb = jnp.where(sky, background, jnp.minimum(paint * (ambient + sun * shine), 1))
  ids = of_own(jnp.arange(2, len(own) + 2)[:, None]) + (~thing & ~sky)
  return rgb, jnp.where(sky, 0, nearest), ids


def _rays(c2w: Array, K: Array, size: int, place: Float[Array, "2"]) -> geometry.Vector:
  """Directions [R], of length 1 along the viewing axis."""
  pixels = jnp.arange(size, dtype=jnp.float32)
  x, y = (pixels + place[0]) / size, (pixels + place[1]) / size
  u, v = jnp.meshgrid((x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1])
  u, v = u.ravel(), v.ravel()
  return tuple(row[0] * u + row[1] * v + row[2] for row in c2w[:3, :3])


def _floor(fields: Float[Array, "2 3"], at: geometry.Vector) -> Float[Array, "3 R"]:
  x, y, _ = at
  near, far = _FADE
  even = (jnp.floor(x / _FIELD + 0.5) + jnp.floor(y / _FIELD + 0.5) + 1) % 2
  contrast = jnp.clip((far - jnp.hypot(x, y)) / (far - near), 0, 1)
  one, other = fields[0][:, None], fields[1][:, None]
  return (one + other) / 2 + contrast * (0.5 - even) * (one - other)


def _painted(world: Arrays, solids: geometry.Solids, at: geometry.Vector) -> Float[Array, "3 O R"]:
  """The colour that each object would have at a point, whether or not it is there."""
  x, y, z = solids.point(at)
  level = jnp.floor(z / _STRIPE + 0.5) % 2 == 1  # no edge lies on a cube's top
  upright = x**4 + y**4 > 6 * x**2 * y**2  # the cosine of four times the angle about z
  apart, radius = _DOTS
  off = lambda distance: (distance / apart - jnp.round(distance / apart)) * apart
  dots = off(x) ** 2 + off(y) ** 2 + off(z) ** 2 < radius**2
  pattern = world["pattern"][:, None]
  second = jnp.select([pattern == 1, pattern == 2, pattern == 3], [level, upright, dots], False)
  return jnp.where(second, world["color2"].T[..., None], world["color"].T[..., None])
