"""The micro world in numbers and words: one to three solids on a floor, cameras, captions, edits.

Everything follows from a seed. Units are metres and radians, z is up. A world's JSON is that of the
"world" in a scene's edits.json. No pixels here: see render.py.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from imx2mx_jax.micro import geometry
from imx2mx_jax.shapes import Float, np

SHAPES = geometry.SHAPES
COLORS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "white")
FLOORS = ("grass", "sand", "snow", "stone", "clay", "checkers")
SKIES = ("day", "sunset", "night")
PATTERNS = ("plain", "level stripes", "upright stripes", "dots")

MOST_OBJECTS = 3
VIEWS = 8

K = np.array(
  [[0.5 / math.tan(math.pi / 8), 0, 0.5], [0, 0.5 / math.tan(math.pi / 8), 0.5], [0, 0, 1]]
)
"""Every camera's intrinsics, in units of the picture's side: a field of view of 45 degrees."""

_SKIES_DRAWN = ("day", *SKIES)  # half of the worlds are by day
_SKY_WORDS = {"day": "by day", "sunset": "at sunset", "night": "at night"}

_TARGET = np.array([0.0, 0.0, 0.35])  # what every camera looks at
_DISTANCE, _AZIMUTH = 2.9, math.radians(30)
_ELEVATION = (math.radians(13), math.radians(18))
_SUN_ELEVATION = math.radians(52)

_SIZES = {1: 0.9, 2: 0.72, 3: 0.6}  # by the number of objects
_RADII = {2: (0.58, 0.7), 3: (0.64, 0.76)}  # of the ring they stand on
_AT_THE_MIDDLE = 0.16  # how far from it one object alone stands, at most, along x and y

_GRID = 18  # rays along a side of the picture by which an object is looked for
_SEEN = 4  # of them at least hit every object in every view: 1.2 % of the picture

WORDINGS = {
  "color": ("make the {} {}", "turn the {} {}", "paint the {} {}"),
  "shape": ("turn the {} into a {}", "make the {} a {}", "replace the {} with a {}"),
  "floor": ("turn the floor into {}", "make the floor {}"),
  "sky": ("make it {}",),
  "ambiguous": (
    "give the {} a new color",
    "paint the {} in a random color",
    "change the color of the {}",
  ),
}
"""What an instruction of each kind may sound like; a scene's edits.json has each kind's first."""

WIDE_WORDINGS = {
  **WORDINGS,
  "floor": (*WORDINGS["floor"], "replace the floor with {}"),
  "ambiguous": (
    *WORDINGS["ambiguous"],
    "give the {} a new colour",
    "paint the {} in a random colour",
    "change the colour of the {}",
  ),
  "pattern": ("paint the {} with {}",),
}
"""Beyond the bundled models' world: more words, and patterns (ambiguous: in any other colour)."""


@dataclasses.dataclass(frozen=True)
class Object:
  """A solid on the floor at (x, y). s: its size. color2: the pattern's colour, if it has one."""

  shape: str
  color: str
  x: float
  y: float
  s: float
  yaw: float
  pattern: str = "plain"
  color2: str = ""


@dataclasses.dataclass(frozen=True)
class World:
  """One to three objects, of different shapes, on a floor under a sky. light: towards the sun."""

  objs: tuple[Object, ...]
  floor: str
  sky: str
  light: tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Edit:
  """An instruction, and what may come of it.

  kind: a key of WIDE_WORDINGS. definite: only one world is right. world: the edited world; of an
  ambiguous edit one at random. plausible: all that are right, in the order of COLORS.
  """

  instruction: str
  kind: str
  definite: bool
  world: World
  plausible: tuple[World, ...]


def sample(seed: int, *, patterned: float = 0.0) -> World:
  """A world in which every view of cameras(seed) shows every object.

  patterned: the chance of an object to have a pattern.
  """
  rng = np.random.default_rng(seed)
  c2w = cameras(seed)
  count = int(rng.integers(1, MOST_OBJECTS + 1))
  looks = [
    {"shape": SHAPES[shape], "color": COLORS[color], **_pattern(rng, COLORS[color], patterned)}
    for shape, color in zip(
      rng.permutation(len(SHAPES))[:count], rng.permutation(len(COLORS))[:count], strict=True
    )
  ]
  floor, sky = _one(rng, FLOORS), _one(rng, _SKIES_DRAWN)
  light = _light(rng)
  while True:
    places = _places(rng, count)
    objs = tuple(Object(**look, **place) for look, place in zip(looks, places, strict=True))
    if count == 1 or _all_seen(objs, c2w):
      return World(objs, floor, sky, light)


def cameras(seed: int, count: int = VIEWS) -> Float[np.ndarray, "V 4 4"]:
  """Camera-to-world on an arc in front, from left to right: OpenCV axes, float64."""
  rng = np.random.default_rng((seed, 1))
  jitter = math.radians(3)
  azimuth = np.linspace(-_AZIMUTH, _AZIMUTH, count) + rng.uniform(-jitter, jitter, count)
  elevation = rng.uniform(*_ELEVATION, count)
  distance = _DISTANCE * rng.uniform(0.97, 1.03, count)
  cos, sin = np.cos(elevation), np.sin(elevation)
  right = np.stack([np.cos(azimuth), np.sin(azimuth), 0 * azimuth], axis=-1)
  back = np.stack([cos * np.sin(azimuth), -cos * np.cos(azimuth), sin], axis=-1)
  c2w = np.tile(np.eye(4), (count, 1, 1))
  c2w[:, :3, :3] = np.stack([right, np.cross(right, back), -back], axis=-1)
  c2w[:, :3, 3] = _TARGET + distance[:, None] * back
  return c2w


def caption(world: World) -> str:
  """What is seen: "a red cone , a blue cube and a white sphere on grass at night"."""
  *others, last = [f"a {describe(obj)}" for obj in world.objs]
  objects = f"{' , '.join(others)} and {last}" if others else last
  return f"{objects} on {world.floor} {_SKY_WORDS[world.sky]}"


def describe(obj: Object) -> str:
  """ "red cone", "red cone with blue stripes"."""
  pattern = "" if obj.pattern == "plain" else f" with {obj.color2} {obj.pattern.split()[-1]}"
  return f"{obj.color} {obj.shape}{pattern}"


def edits(
  world: World, rng: np.random.Generator, *, wordings: Mapping[str, Sequence[str]] = WORDINGS
) -> list[Edit]:
  """One edit of each kind in `wordings`, of an object, floor or sky and in words drawn by rng."""
  return [edit(world, rng, kind, wordings[kind]) for kind in wordings]


def edit(world: World, rng: np.random.Generator, kind: str, wordings: Sequence[str]) -> Edit:
  """An edit of one kind. wordings: what it may sound like, {} for what is edited and becomes."""
  words = wordings[rng.integers(len(wordings))]
  which = int(rng.integers(len(world.objs)))
  obj = world.objs[which]
  others = lambda values, *taken: [value for value in values if value not in taken]
  with_object = lambda **changes: dataclasses.replace(
    world,
    objs=(*world.objs[:which], dataclasses.replace(obj, **changes), *world.objs[which + 1 :]),
  )
  match kind:
    case "color":
      color = _one(rng, others(COLORS, obj.color, obj.color2))
      return _definite(words.format(obj.shape, color), kind, with_object(color=color))
    case "shape":
      shape = _one(rng, others(SHAPES, *(other.shape for other in world.objs)))
      return _definite(words.format(obj.shape, shape), kind, with_object(shape=shape))
    case "floor":
      floor = _one(rng, others(FLOORS, world.floor))
      return _definite(words.format(floor), kind, dataclasses.replace(world, floor=floor))
    case "sky":
      sky = _one(rng, others(SKIES, world.sky))
      return _definite(words.format(sky), kind, dataclasses.replace(world, sky=sky))
    case "ambiguous":
      colors = others(COLORS, obj.color, obj.color2)
      plausible = tuple(with_object(color=color) for color in colors)
      return Edit(words.format(obj.shape), kind, False, _one(rng, plausible), plausible)
    case "pattern":
      name = _one(rng, ("stripes", "dots"))
      plausible = tuple(
        with_object(pattern=pattern, color2=color)
        for color in others(COLORS, obj.color)
        for pattern in PATTERNS
        if pattern.endswith(name) and (pattern, color) != (obj.pattern, obj.color2)
      )
      return Edit(words.format(obj.shape, name), kind, False, _one(rng, plausible), plausible)
  raise ValueError(f"no kind of edit is called {kind}")


def to_json(world: World) -> dict[str, Any]:
  """As it stands in edits.json; plain objects say nothing of patterns."""
  drawn = dataclasses.asdict(world)
  for obj in drawn["objs"]:
    if obj["pattern"] == "plain":
      del obj["pattern"], obj["color2"]
  return {**drawn, "objs": list(drawn["objs"]), "light": list(drawn["light"])}


def from_json(drawn: Mapping[str, Any]) -> World:
  """The world that stands in an edits.json."""
  objs = tuple(Object(**obj) for obj in drawn["objs"])
  return World(objs, drawn["floor"], drawn["sky"], tuple(drawn["light"]))


def _definite(instruction: str, kind: str, edited: World) -> Edit:
  return Edit(instruction, kind, True, edited, (edited,))


def _one(rng: np.random.Generator, values: Sequence[Any]) -> Any:
  return values[rng.integers(len(values))]


def _pattern(rng: np.random.Generator, color: str, chance: float) -> dict[str, str]:
  if rng.random() >= chance:
    return {}
  return {
    "pattern": _one(rng, PATTERNS[1:]),
    "color2": _one(rng, [other for other in COLORS if other != color]),
  }


def _light(rng: np.random.Generator) -> tuple[float, float, float]:
  """From the front, left or right."""
  azimuth = math.radians(40 + 30 * rng.random() ** 2) * _one(rng, (-1, 1))
  across = math.cos(_SUN_ELEVATION)
  return across * math.sin(azimuth), -across * math.cos(azimuth), math.sin(_SUN_ELEVATION)


def _places(rng: np.random.Generator, count: int) -> list[dict[str, float]]:
  """One at the middle, or several around it at about equal angles."""
  if count == 1:
    xy = rng.uniform(-_AT_THE_MIDDLE, _AT_THE_MIDDLE, (1, 2))
  else:
    angles = rng.uniform(0, 2 * math.pi) + np.arange(count) * 2 * math.pi / count
    angles = angles + rng.uniform(-0.25, 0.25, count)
    radii = rng.uniform(*_RADII[count], count)
    xy = np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=-1)
  s = _SIZES[count] * rng.uniform(0.92, 1.08, count)
  yaw = rng.uniform(0, math.pi / 2, count)
  rows = np.column_stack([xy, s, yaw]).tolist()
  return [dict(zip(("x", "y", "s", "yaw"), row, strict=True)) for row in rows]


def _all_seen(objs: Sequence[Object], c2w: Float[np.ndarray, "V 4 4"]) -> bool:
  """Whether each view shows each object, by a coarse grid of rays."""
  rows = [geometry.columns(obj.shape, obj.x, obj.y, obj.s, obj.yaw) for obj in objs]
  solids = geometry.solids(np.array(rows, np.float32))
  views, rays = len(c2w), geometry.rays(c2w, K, _GRID)
  origin = tuple(np.repeat(c2w[:, i, 3], _GRID**2).astype(np.float32) for i in range(3))
  direction = tuple(component.ravel().astype(np.float32) for component in rays)
  enter, leave = geometry.inside(solids, origin, direction)
  enter = np.where(enter < leave, enter, np.inf)
  nearest = (enter == enter.min(axis=0)) & (enter < np.inf)
  return bool((nearest.reshape(len(objs), views, -1).sum(axis=-1) >= _SEEN).all())
