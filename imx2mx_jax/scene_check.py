"""Do the cameras of a scene fit its pictures? Matches of its views, and what they say.

The same for `python -m imx2mx_jax.inspect_scene` and, with few pairs and small pictures, for the
start of every edit.
"""

import dataclasses
import itertools
import math
import pathlib
from collections.abc import Mapping, Sequence

import cv2

from imx2mx_jax import cameras, doubts, matches, pictures
from imx2mx_jax import scene as scenes
from imx2mx_jax.doubts import Stated, Suspicion
from imx2mx_jax.shapes import Float, np

_TOLERATED = 0.003  # median epipolar error, in parts of the longer side
_LONGEST_SIDE = 1600  # pixels; larger pictures are reduced before they are matched
_FEATURES, _FEATURES_OF_MANY = 4000, 2000
_BRIEF_SIDE, _BRIEF_FEATURES, _BRIEF_PAIRS = 640, 1000, 3
_NO_OVERLAP = 0.1
_MOST_FOR_ALL_PAIRS = 20  # views; every two of more take minutes


NEIGHBOURS = 8
"""With so many views each one is matched, of those that look most nearly its way, if all pairs are
too many."""


@dataclasses.dataclass(frozen=True)
class Pair:
  """Two views. candidates: matches by their looks; matches: those of one geometry among them.

  median_error: epipolar, of the matches under the file's cameras, in pixels of the first picture;
  None without matches. angle: between the viewing directions, in degrees. overlap: the part of one
  picture that the other camera sees, if the scene is a plane where the cameras look.
  """

  views: tuple[int, int]
  candidates: int
  matches: int
  median_error: float | None
  angle: float
  overlap: float


@dataclasses.dataclass(frozen=True)
class Findings:
  """What an inspection found.

  left_out: how many pairs were not matched. distortion_px: how far lenses move points at most, as
  stated; undistorted: whether that was believed.
  """

  names: tuple[str, ...]
  c2w: Float[np.ndarray, "N 4 4"]
  K: Float[np.ndarray, "N 3 3"]
  sizes: tuple[tuple[int, int], ...]
  pairs: tuple[Pair, ...]
  left_out: int
  distortion_px: float
  undistorted: bool
  suspicions: tuple[Suspicion, ...]


def inspect(
  transforms: scenes.Transforms, chosen: Sequence[int], *, undistort: bool = True
) -> Findings:
  """Matches every two of the chosen frames, or neighbours if they are many.

  undistort: whether to believe the file's lens.

  Raises: SceneError for what cannot be read at all.
  """
  most = _FEATURES if len(chosen) <= _MOST_FOR_ALL_PAIRS else _FEATURES_OF_MANY
  views = [_read(transforms, index, undistort, _LONGEST_SIDE, most) for index in chosen]
  pairs = _to_match([view.stated.c2w for view in views])
  candidates = {pair: _matched(views, pair) for pair in pairs}
  points = _kept(candidates)
  stated, turned = _with_turned_sizes(views, points)
  tolerated = _tolerated(stated)
  best, suspicions = doubts.suspect(stated, points, tolerated)
  focus = _focus([best[view].c2w for view in _largest_group(points, len(best))])
  suspicions = [*turned, *suspicions, *_unseen(best, focus, points), *_off_centre(stated)]
  errors = doubts.pair_errors(stated, points)
  return Findings(
    tuple(view.name for view in stated),
    np.stack([view.c2w for view in stated]),
    np.stack([view.K for view in stated]),
    tuple(view.hw for view in stated),
    tuple(_pair(best, focus, pair, candidates, points, errors) for pair in pairs),
    math.comb(len(views), 2) - len(pairs),
    max(view.distortion_px for view in views),
    undistort,
    tuple(suspicions),
  )


def briefly(
  transforms: scenes.Transforms, chosen: Sequence[int], *, undistort: bool = True
) -> tuple[Suspicion, ...]:
  """What a look at the views that are nearest to each other finds, in about a second."""
  c2w = {index: scenes.camera_to_world(transforms, index) for index in chosen}
  angle = lambda pair: _angle(c2w[pair[0]], c2w[pair[1]])
  nearest = sorted(itertools.combinations(chosen, 2), key=angle)[:_BRIEF_PAIRS]
  read = sorted({index for pair in nearest for index in pair})
  views = [_read(transforms, index, undistort, _BRIEF_SIDE, _BRIEF_FEATURES) for index in read]
  pairs = [(read.index(first), read.index(second)) for first, second in nearest]
  points = _kept({pair: _matched(views, pair) for pair in pairs})
  stated = [view.stated for view in views]
  _, suspicions = doubts.suspect(stated, points, _tolerated(stated))
  poses = [c2w[index] for index in chosen]
  names = [_name(transforms, index) for index in chosen]
  return tuple([*suspicions, *_behind(names, poses)])


def as_stated(transforms: scenes.Transforms, index: int) -> tuple[scenes.View, bool]:
  """A frame as `scene.read_view` reads it, or mirrored, and whether it had to be turned.

  A picture with the file's width for its height, which an edit refuses, is turned by a quarter.
  Raises: SceneError.
  """
  image, orientation = scenes.read_picture(transforms, index)
  hw = image.shape[:2]
  turned = orientation == 1 and scenes.turned_size(transforms, index, hw)
  quarters = -1 if turned else scenes.quarters_from_file(transforms, index, hw, orientation)
  image = np.rot90(image, -quarters)
  hw = image.shape[:2]
  K = cameras.pixel_intrinsics(scenes.intrinsics(transforms, index, hw), hw)
  c2w = scenes.camera_to_world(transforms, index, mirrored=True)
  return scenes.View(image, c2w, K, scenes.lens(transforms, index), quarters), bool(turned)


@dataclasses.dataclass(frozen=True)
class _View:
  """A frame to be matched.

  features: of the picture reduced by scale. turned: whether it was turned by a quarter.
  distortion_px: how far the file's lens moves points at most.
  """

  features: matches.Features
  scale: float
  turned: bool
  distortion_px: float
  stated: Stated


def _read(
  transforms: scenes.Transforms, index: int, undistort: bool, longest: int, most: int
) -> _View:
  view, turned = as_stated(transforms, index)
  hw = view.image.shape[:2]
  picture, scale = pictures.to_uint8(view.image), min(1.0, longest / max(hw))
  if scale < 1:
    picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
  stated = Stated(
    _name(transforms, index),
    scenes.stated_pose(transforms, index),
    scenes.applied_transform(transforms),
    view.K,
    view.lens if undistort else {},
    hw,
  )
  distortion = cameras.lens_displacement(view.K, hw, view.lens)
  return _View(matches.sift_features(picture, most), scale, turned, distortion, stated)


def _name(transforms: scenes.Transforms, index: int) -> str:
  return pathlib.PurePath(transforms.frames[index]["file_path"]).name


def _to_match(c2w: Sequence[np.ndarray]) -> list[tuple[int, int]]:
  """Every two of few views; of many, each with its neighbours and with the next.

  The next views, neighbours in most captures, link all, and are of use where the poses are wrong.
  """
  if len(c2w) <= _MOST_FOR_ALL_PAIRS:
    return list(itertools.combinations(range(len(c2w)), 2))
  angles = np.array([[_angle(first, second) for second in c2w] for first in c2w])
  np.fill_diagonal(angles, np.inf)
  nearest = angles.argsort(axis=1)[:, :NEIGHBOURS]
  pairs = {(min(i, j), max(i, j)) for i, row in enumerate(nearest.tolist()) for j in row}
  return sorted(pairs | set(itertools.pairwise(range(len(c2w)))))


def _matched(views: Sequence[_View], pair: tuple[int, int]) -> Float[np.ndarray, "2 M 2"]:
  first, second = (views[i] for i in pair)
  scales = np.array([first.scale, second.scale])
  return matches.match(first.features, second.features) / scales[:, None, None]


def _kept(candidates: doubts.Points) -> doubts.Points:
  """The matches of one geometry, of the pairs that have any."""
  kept = {pair: points[:, matches.consistent(points)] for pair, points in candidates.items()}
  return {pair: points for pair, points in kept.items() if points.size}


def _tolerated(stated: Sequence[Stated]) -> float:
  return max(1.0, _TOLERATED * max(max(view.hw) for view in stated))


def _with_turned_sizes(
  views: Sequence[_View], points: doubts.Points
) -> tuple[list[Stated], list[Suspicion]]:
  """Pictures with width and height exchanged were turned by a quarter, whichever way fits."""
  turned = [view.stated.name for view in views if view.turned]
  stated = [view.stated for view in views]
  if not turned:
    return stated, []
  other = [
    dataclasses.replace(view.stated, quarters=2) if view.turned else view.stated for view in views
  ]
  ways = {"counterclockwise": stated, "clockwise": other}
  error = lambda way: np.median(list(doubts.pair_errors(ways[way], points).values()) or [np.inf])
  way = min(ways, key=error)
  height, width = views[[view.turned for view in views].index(True)].stated.hw
  evidence = (
    f"{len(turned)} of {len(views)} are {height} x {width} pixels and the file says {width} x "
    f"{height}; turned back, the median epipolar error is {error(way):.2g} px"
  )
  remedy = f"turn {', '.join(turned)} by 90 degrees {way} and save without an EXIF orientation"
  return ways[way], [Suspicion("photographs are turned by a quarter", evidence, remedy)]


def _pair(
  stated: Sequence[Stated],
  focus: Float[np.ndarray, " 3"],
  pair: tuple[int, int],
  candidates: doubts.Points,
  points: doubts.Points,
  errors: Mapping[tuple[int, int], float],
) -> Pair:
  first, second = (stated[view] for view in pair)
  return Pair(
    pair,
    candidates[pair].shape[1],
    points[pair].shape[1] if pair in points else 0,
    errors[pair] if pair in errors and np.isfinite(errors[pair]) else None,
    _angle(first.c2w, second.c2w),
    _shared(first, second, focus),
  )


def _angle(first: np.ndarray, second: np.ndarray) -> float:
  """Between two viewing directions, in degrees."""
  return float(np.degrees(np.arccos(np.clip(first[:3, 2] @ second[:3, 2], -1, 1))))


def _focus(c2w: Sequence[np.ndarray]) -> Float[np.ndarray, " 3"]:
  """The point nearest to all viewing axes."""
  across = [np.eye(3) - np.outer(pose[:3, 2], pose[:3, 2]) for pose in c2w]
  middle = sum(part @ pose[:3, 3] for part, pose in zip(across, c2w, strict=True))
  return np.linalg.lstsq(sum(across), middle, rcond=1e-3)[0]


def _shared(first: Stated, second: Stated, focus: np.ndarray) -> float:
  """The overlap of two views, the mean of both ways."""
  return (_overlap(first, second, focus) + _overlap(second, first, focus)) / 2


def _overlap(seeing: Stated, other: Stated, focus: np.ndarray) -> float:
  """The part of a picture that the other camera sees too, on a plane across at the focus' depth."""
  c2w, to_other = seeing.c2w, np.linalg.inv(other.c2w)
  if c2w[:3, 2] @ other.c2w[:3, 2] <= 0:
    return 0.0
  depth = max((focus - c2w[:3, 3]) @ c2w[:3, 2], 1e-6)
  height, width = seeing.hw
  pixels = cameras.pixel_centres((24, 24)).reshape(-1, 2) * [width, height]
  rays = np.pad(pixels, ((0, 0), (0, 1)), constant_values=1) @ np.linalg.inv(seeing.K).T
  world = depth * rays @ c2w[:3, :3].T + c2w[:3, 3]
  there = world @ to_other[:3, :3].T + to_other[:3, 3]
  x, y = ((there @ other.K.T)[:, :2] / np.maximum(there[:, 2:], 1e-9)).T
  inside = (x >= 0) & (x <= other.hw[1]) & (y >= 0) & (y <= other.hw[0])
  return float(np.mean(inside & (there[:, 2] > 0)))


def _unseen(stated: Sequence[Stated], focus: np.ndarray, points: doubts.Points) -> list[Suspicion]:
  """Views that share nothing with the largest group of views that share something."""
  names, poses = [view.name for view in stated], [view.c2w for view in stated]
  if not points:
    what = "no two views share enough for their cameras to be checked"
    angle = lambda pair: _angle(pair[0].c2w, pair[1].c2w)
    nearest = min(itertools.combinations(stated, 2), key=angle)
    which = (
      "the two" if len(stated) == 2 else f"{nearest[0].name} and {nearest[1].name}, the nearest,"
    )
    evidence = (
      "SIFT finds fewer than 16 matches of one geometry in every pair; by the cameras "
      f"{which} are {angle(nearest):.0f} degrees apart and share {_shared(*nearest, focus):.0%}"
    )
    return [Suspicion(what, evidence, "choose views that overlap, at most 30 degrees apart")]
  behind = _behind(names, poses)
  group = _largest_group(points, len(stated))
  alone = []
  for view in sorted(set(range(len(stated))) - group):
    if any(suspicion.what.startswith(names[view]) for suspicion in behind):
      continue
    angle = min(_angle(poses[view], poses[other]) for other in group)
    overlap = max(_overlap(stated[view], stated[other], focus) for other in group)
    evidence = (
      f"it has no reliable matches with the {len(group)} views that match each other; by the "
      f"cameras it is {angle:.0f} degrees from the nearest and shares {overlap:.0%} with it"
    )
    what = "does not overlap with the others" if overlap < _NO_OVERLAP else "cannot be checked"
    remedy = "add views in between, or leave it out"
    alone.append(Suspicion(f"{names[view]} {what}", evidence, remedy))
  return [*behind, *alone]


def _behind(names: Sequence[str], poses: Sequence[np.ndarray]) -> list[Suspicion]:
  found = []
  for view, name in enumerate(names):
    angles = [_angle(poses[view], pose) for other, pose in enumerate(poses) if other != view]
    if min(angles) > 90:
      evidence = f"it looks {min(angles):.0f} to {max(angles):.0f} degrees away from all others"
      remedy = "leave it out (--config.scene.frames=...), or add views in between"
      found.append(Suspicion(f"{name} sees the scene from behind", evidence, remedy))
  return found


def _largest_group(points: doubts.Points, views: int) -> set[int]:
  """The most views that are linked by matches; all where none are."""
  groups = [_group(points, view) for view in range(views)]
  return max(groups, key=len) if points else set(range(views))


def _group(points: doubts.Points, view: int) -> set[int]:
  """The views that are linked with a view by matches, itself included."""
  group = {view}
  while more := {i for pair in points if set(pair) & group for i in pair} - group:
    group |= more
  return group


def _off_centre(stated: Sequence[Stated]) -> list[Suspicion]:
  """A principal point that no ordinary lens has."""
  off = [np.abs(view.K[:2, 2] / view.hw[::-1] - 0.5).max() for view in stated]
  worst = int(np.argmax(off))
  if off[worst] < 0.25:
    return []
  (cx, cy), (height, width) = stated[worst].K[:2, 2], stated[worst].hw
  evidence = f"cx = {cx:.0f}, cy = {cy:.0f} in {stated[worst].name} of {width} x {height} pixels"
  remedy = "check that cx, cy belong to pictures of this size, or use the middle"
  return [Suspicion("the principal point is far from the middle", evidence, remedy)]
