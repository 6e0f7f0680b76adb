"""What may be wrong with cameras that do not fit their pictures, and what fits better.

Each doubt changes the cameras as one mistake would have; the one that lowers the epipolar errors of
matched points most is believed, if it at least halves them. Whatever moves or turns the whole world
leaves these errors, and all that is made of the cameras, as they are.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import scipy.optimize

from imx2mx_jax import cameras, matches
from imx2mx_jax.scene import OPENGL_TO_OPENCV
from imx2mx_jax.shapes import Float, np

Points = Mapping[tuple[int, int], Float[np.ndarray, "2 _ 2"]]
"""{two views: points of the first and their partners in the second, in pixels of the pictures}."""

_MOST_DOUBTS = 3
_BELIEVED = 0.5  # of the error before
_AS_GOOD = 1.25  # a simple mistake is believed rather than a fit that is better by less than that
_CLEAR = 0.2  # of the tolerated error: what leaves no more needs no further explanation
_WORST = 30.0  # an error this many times the tolerated one is as bad as any
_MATERIAL = 0.02  # of a focal length: as near as matches tell it, and what is worth changing
_SHIFTS = np.linspace(-0.3, 0.3, 7)  # of a principal point, in parts of the picture
_FOCAL_FACTORS = np.exp(np.linspace(-0.6, 0.6, 9))


@dataclasses.dataclass(frozen=True)
class Stated:
  """A view's camera as its file states it, piece by piece.

  pose: camera-to-world, OpenGL axes, with `applied` still applied. K: in pixels of a picture of
  `hw`. lens: OpenCV's coefficients. quarters: of np.rot90 that make that picture of the one
  at hand.
  """

  name: str
  pose: Float[np.ndarray, "4 4"]
  applied: Float[np.ndarray, "4 4"]
  K: Float[np.ndarray, "3 3"]
  lens: Mapping[str, float]
  hw: tuple[int, int]
  quarters: int = 0

  @property
  def c2w(self) -> Float[np.ndarray, "4 4"]:
    """Camera-to-world, OpenCV axes; mirrored if the statements are."""
    return np.linalg.inv(self.applied) @ self.pose * OPENGL_TO_OPENCV

  @property
  def mirrored(self) -> bool:
    """Whether no camera can stand like this."""
    return bool(np.linalg.det(self.c2w[:3, :3]) < 0)

  def seen(self, points: Float[np.ndarray, "M 2"]) -> Float[np.ndarray, "M 2"]:
    """Where a pinhole with these intrinsics would have seen points of the picture at hand."""
    height, width = self.hw if self.quarters % 2 == 0 else self.hw[::-1]
    for _ in range(self.quarters % 4):
      points, height, width = np.stack([points[:, 1], width - points[:, 0]], 1), width, height
    return cameras.undistort_points(points, self.K, self.lens)


@dataclasses.dataclass(frozen=True)
class Suspicion:
  """What seems wrong with a scene, what shows it, and what to try."""

  what: str
  evidence: str
  remedy: str


@dataclasses.dataclass(frozen=True)
class _Doubt:
  """A mistake that may have been made, and its undoing in every view."""

  what: str
  remedy: str
  undo: Callable[[Stated], Stated]


def pair_errors(stated: Sequence[Stated], points: Points) -> dict[tuple[int, int], float]:
  """Each pair's median epipolar error in pixels; inf for mirrored cameras and for points behind."""
  return {pair: _error(stated, pair, found) for pair, found in points.items()}


def suspect(
  stated: Sequence[Stated], points: Points, tolerated: float
) -> tuple[Sequence[Stated], list[Suspicion]]:
  """The cameras that fit best, and what is suspicious about the stated ones.

  tolerated: median epipolar error in pixels that is no reason for doubt.
  """
  suspicions, count = [], sum(found.shape[1] for found in points.values())
  while _worst(stated, points) > tolerated and len(suspicions) < _MOST_DOUBTS:
    before = _score(stated, points, tolerated)
    simple = _scored(_simple_mistakes(stated), points, tolerated)
    clear = min(score for score, _, _ in simple) < _CLEAR * tolerated
    further = (
      () if clear else _scored(_other_mistakes(stated, points, tolerated), points, tolerated)
    )
    found = [*simple, *further]
    best = min(score for score, _, _ in found)
    if best > _BELIEVED * before:
      break
    _, doubt, changed = next(row for row in found if row[0] <= _AS_GOOD * best)
    evidence = (
      f"then the median epipolar error is {_told(changed, points)} instead of "
      f"{_told(stated, points)} ({count} matches in {len(points)} pairs)"
    )
    suspicions.append(Suspicion(doubt.what, evidence, doubt.remedy))
    stated = changed
  if _worst(stated, points) > tolerated:
    suspicions += _unexplained(stated, points, tolerated)
  return stated, suspicions


def _error(stated: Sequence[Stated], pair: tuple[int, int], points: np.ndarray) -> float:
  first, second = (stated[view] for view in pair)
  if first.mirrored or second.mirrored:
    return np.inf
  seen = np.stack([first.seen(points[0]), second.seen(points[1])])
  geometry = np.stack([first.c2w, second.c2w]), np.stack([first.K, second.K])
  if np.mean(matches.in_front(seen, *geometry)) < 0.5:
    return np.inf
  return float(np.median(matches.epipolar_errors(seen, *geometry)))


def _worst(stated: Sequence[Stated], points: Points) -> float:
  return max(pair_errors(stated, points).values(), default=0.0)


def _score(stated: Sequence[Stated], points: Points, tolerated: float) -> float:
  """The mean over all pairs, none of which counts without bounds."""
  errors = np.array(list(pair_errors(stated, points).values()))
  return float(np.minimum(errors, _WORST * tolerated).mean())


def _told(stated: Sequence[Stated], points: Points) -> str:
  if any(view.mirrored for view in stated):
    return "mirrored cameras"
  errors = np.array(list(pair_errors(stated, points).values()))
  behind = int(np.isinf(errors).sum())
  if behind:
    return f"points behind the cameras in {behind} of {len(errors)} pairs"
  return f"{np.median(errors):.2g} px (worst pair {errors.max():.2g} px)"


def _scored(
  alternatives: Iterator[tuple[_Doubt, list[Stated]]], points: Points, tolerated: float
) -> list[tuple[float, _Doubt, list[Stated]]]:
  return [(_score(changed, points, tolerated), doubt, changed) for doubt, changed in alternatives]


def _simple_mistakes(stated: Sequence[Stated]) -> Iterator[tuple[_Doubt, list[Stated]]]:
  """Every doubt about all views, and the cameras without that mistake."""
  for doubt in _DOUBTS:
    yield doubt, [doubt.undo(view) for view in stated]


def _other_mistakes(
  stated: Sequence[Stated], points: Points, tolerated: float
) -> Iterator[tuple[_Doubt, list[Stated]]]:
  """Focal lengths, principal points, and single photographs that are turned."""
  if not any(view.mirrored for view in stated):
    yield _fitted_focal_lengths(stated, points, tolerated)
    yield _fitted_principal_point(stated, points, tolerated)
  for view, quarters in itertools.product(sorted({i for pair in points for i in pair}), (1, 2, 3)):
    doubt = _turned(f"the photograph {stated[view].name} is", quarters)
    yield doubt, [doubt.undo(x) if i == view else x for i, x in enumerate(stated)]


def _fitted_focal_lengths(
  stated: Sequence[Stated], points: Points, tolerated: float
) -> tuple[_Doubt, list[Stated]]:
  """The focal lengths, all times the same two factors, that fit the matches best.

  A factor that changes nothing material is 1.
  """
  scaled = lambda factors: [_scaled(view, factors) for view in stated]
  error = lambda logs: _score(scaled(np.exp(logs)), points, tolerated)
  grid = [np.log(pair) for pair in itertools.product(_FOCAL_FACTORS, repeat=2)]
  found = scipy.optimize.minimize(
    error, min(grid, key=error), method="Nelder-Mead", options={"xatol": 2e-3, "maxfev": 150}
  )
  factors = np.exp(np.where(np.abs(found.x) < _MATERIAL, 0, found.x))
  changed = [axis for axis in (0, 1) if factors[axis] != 1]
  names = [("fl_x", "fl_y")[axis] for axis in changed]
  old = [stated[0].K[axis, axis] for axis in changed]
  new = " and ".join(
    f"{name} = {_rounded(value * factors[axis], _MATERIAL * value):g}"
    for name, value, axis in zip(names, old, changed, strict=True)
  )
  first = "" if np.ptp([view.K[0, 0] for view in stated]) < 1 else f" in {stated[0].name}"
  remedy = (
    f"use about {new} instead of {' and '.join(f'{value:.0f}' for value in old)}{first} (all "
    f"views: times {' and '.join(f'{factors[axis]:.2f}' for axis in changed)}), or compute the "
    "cameras anew"
  )
  return _Doubt(_unfit(names), remedy, lambda view: _scaled(view, factors)), scaled(factors)


def _fitted_principal_point(
  stated: Sequence[Stated], points: Points, tolerated: float
) -> tuple[_Doubt, list[Stated]]:
  """The principal points, all moved by the same part of the picture, that fit the matches best."""
  moved = lambda shift: [_shifted(view, shift) for view in stated]
  error = lambda shift: _score(moved(shift), points, tolerated)
  start = np.array(min(itertools.product(_SHIFTS, repeat=2), key=error))
  simplex = start + 0.05 * np.eye(3, 2)  # SciPy's own is tiny where the start is zero
  options = {"xatol": 2e-3, "maxfev": 150, "initial_simplex": simplex}
  found = scipy.optimize.minimize(error, start, method="Nelder-Mead", options=options)
  changed, first = moved(found.x), stated[0]
  (old_x, old_y), within = first.K[:2, 2], _MATERIAL / 2 * max(first.hw)
  x, y = (_rounded(value, within) for value in changed[0].K[:2, 2])
  remedy = (
    f"use about cx = {x:g} and cy = {y:g} instead of {old_x:.0f} and "
    f"{old_y:.0f} in {first.name} of {first.hw[1]} x {first.hw[0]} pixels (all views: alike), or "
    "compute the cameras anew"
  )
  what = "the principal point cx, cy does not fit the pictures"
  return _Doubt(what, remedy, lambda view: _shifted(view, found.x)), changed


def _unfit(names: Sequence[str]) -> str:
  if len(names) == 1:
    return f"the focal length {names[0]} does not fit the pictures"
  return f"the focal lengths {', '.join(names)} do not fit the pictures"


def _rounded(value: float, within: float) -> float:
  """A number without digits that the matches do not hold: 502.3 within 10 is 500."""
  digit = 10.0 ** np.floor(np.log10(within))
  step = max(digit * part for part in (1, 2, 5) if digit * part <= within)
  return float(np.rint(value / step) * step)


def _unexplained(stated: Sequence[Stated], points: Points, tolerated: float) -> list[Suspicion]:
  """One view that is to blame for every pair that does not fit, or the pairs."""
  errors = pair_errors(stated, points)
  bad = [pair for pair, error in errors.items() if error > tolerated]
  views = {view for pair in errors for view in pair}
  blamed = [view for view in views if all(view in pair for pair in bad)]
  names = " and ".join(stated[view].name for view in blamed)
  numbers = ", ".join(f"{errors[pair]:.2g}" for pair in bad)
  evidence = f"median epipolar errors of {numbers} px in {len(bad)} of {len(errors)} pairs"
  if len(blamed) == 1 and len(bad) < len(errors):
    remedy = "leave that view out, or compute the cameras anew"
    if stated[blamed[0]].mirrored:
      evidence = "its pose is mirrored (determinant -1), which no camera's is"
    return [Suspicion(f"the camera of {names} does not fit the others", evidence, remedy)]
  remedy = "compute the cameras anew from these very pictures (COLMAP, ns-process-data)"
  return [Suspicion("the cameras do not fit the pictures", evidence, remedy)]


def _scaled(view: Stated, factors: np.ndarray) -> Stated:
  return dataclasses.replace(view, K=view.K * np.diag([*factors, 1]) + view.K * (1 - np.eye(3)))


def _shifted(view: Stated, shift: Sequence[float] | np.ndarray) -> Stated:
  """The principal point moved by parts of the picture's width and height."""
  K = view.K.copy()
  K[:2, 2] += np.multiply(shift, view.hw[::-1])
  return dataclasses.replace(view, K=K)


def _rescaled(view: Stated) -> Stated:
  """Intrinsics of a picture 2, 4, .. times as large, or as small, brought to this one's size."""
  ratios = np.array(view.hw[::-1]) / 2 / np.maximum(view.K[:2, 2], 1)
  factor = 2.0 ** np.rint(np.log2(ratios).mean())
  return dataclasses.replace(view, K=np.diag([factor, factor, 1]) @ view.K)


def _mirrored(view: Stated) -> Stated:
  """Left and right in the picture changed."""
  flip = np.array([[-1.0, 0, view.hw[1]], [0, 1, 0], [0, 0, 1]])
  return dataclasses.replace(view, K=flip @ view.K)


def _swapped(view: Stated, entries: tuple[tuple[int, int], tuple[int, int]]) -> Stated:
  K, (first, second) = view.K.copy(), entries
  K[first], K[second] = view.K[second], view.K[first]
  return dataclasses.replace(view, K=K)


def _axes(*signs: float) -> Callable[[Stated], Stated]:
  """Columns of the pose: the camera's own axes."""
  return lambda view: dataclasses.replace(view, pose=view.pose * np.array([*signs, 1.0]))


def _world(*signs: float) -> Callable[[Stated], Stated]:
  """Rows of the pose: the world's axes."""
  return lambda view: dataclasses.replace(view, pose=np.diag([*signs, 1.0]) @ view.pose)


def _positions(order: Sequence[int], *signs: float) -> Callable[[Stated], Stated]:
  def moved(view: Stated) -> Stated:
    pose = view.pose.copy()
    pose[:3, 3] = pose[list(order), 3] * signs
    return dataclasses.replace(view, pose=pose)

  return moved


def _inverted(view: Stated) -> Stated:
  return dataclasses.replace(view, pose=np.linalg.inv(view.pose))


def _inverted_opencv(view: Stated) -> Stated:
  return dataclasses.replace(view, pose=np.linalg.inv(view.pose) * OPENGL_TO_OPENCV)


_BACK = {1: "90 degrees counterclockwise", 2: "180 degrees", 3: "90 degrees clockwise"}


def _turned(photographs: str, quarters: int) -> _Doubt:
  return _Doubt(
    f"{photographs} turned against the camera",
    f"turn what is turned by {_BACK[quarters]} and save it without an EXIF orientation",
    lambda view: dataclasses.replace(view, quarters=view.quarters + quarters),
  )


_COLUMN = "negate the {} column of every transform_matrix"
_DOUBTS = (
  _Doubt(
    "fl_x and fl_y are swapped",
    "swap them",
    lambda view: _swapped(view, ((0, 0), (1, 1))),
  ),
  _Doubt("cx and cy are swapped", "swap them", lambda view: _swapped(view, ((0, 2), (1, 2)))),
  _Doubt(
    "the intrinsics are those of pictures of another size",
    "add the w and h that fl_x, fl_y, cx, cy were measured in, or scale them to the pictures",
    _rescaled,
  ),
  _Doubt(
    "the poses have OpenCV axes (y down, z forward), not OpenGL's",
    _COLUMN.format("second and the third"),
    _axes(1, -1, -1),
  ),
  _Doubt("the cameras' y axes are flipped", _COLUMN.format("second"), _axes(1, -1, 1)),
  _Doubt("the cameras' z axes are flipped", _COLUMN.format("third"), _axes(1, 1, -1)),
  _Doubt("the cameras' x axes are flipped", _COLUMN.format("first"), _axes(-1, 1, 1)),
  _Doubt(
    "the cameras' x and z axes are flipped", _COLUMN.format("first and the third"), _axes(-1, 1, -1)
  ),
  _Doubt(
    "applied_transform was not applied to these poses",
    "remove it from the file",
    lambda view: dataclasses.replace(view, applied=np.eye(4)),
  ),
  _Doubt(
    "the world is mirrored, as when applied_transform is missing or is not that of the poses",
    "add the applied_transform that was applied, or negate the third row of every transform_matrix",
    _world(1, 1, -1),
  ),
  _Doubt(
    "the matrices are world-to-camera",
    "write the inverse of every transform_matrix",
    _inverted,
  ),
  _Doubt(
    "the matrices are world-to-camera with OpenCV axes, as COLMAP writes them",
    "write the inverse of every transform_matrix, its second and third column negated",
    _inverted_opencv,
  ),
  *(
    _Doubt(
      f"the cameras' positions have other axes than their rotations ({what})",
      "treat the rows of the rotation and of the position alike when exporting, "
      "applied_transform included",
      _positions(order, *signs),
    )
    for what, order, signs in (
      ("x negated", (0, 1, 2), (-1, 1, 1)),
      ("y negated", (0, 1, 2), (1, -1, 1)),
      ("z negated", (0, 1, 2), (1, 1, -1)),
      ("y and z negated", (0, 1, 2), (1, -1, -1)),
      ("x and z negated", (0, 1, 2), (-1, 1, -1)),
      ("x and y negated", (0, 1, 2), (-1, -1, 1)),
      ("all negated", (0, 1, 2), (-1, -1, -1)),
      ("y and z swapped", (0, 2, 1), (1, 1, 1)),
      ("y and z swapped, y negated", (0, 2, 1), (1, -1, 1)),
      ("y and z swapped, z negated", (0, 2, 1), (1, 1, -1)),
      ("x and y swapped", (1, 0, 2), (1, 1, 1)),
      ("x and y swapped, z negated", (1, 0, 2), (1, 1, -1)),
    )
  ),
  *(_turned("all photographs are", quarters) for quarters in (2, 1, 3)),
  _Doubt("the photographs are mirrored", "flip them from left to right", _mirrored),
  _Doubt(
    "the file's lens distortion is not that of its pictures",
    "add --config.scene.undistort=false, or remove it from the file",
    lambda view: dataclasses.replace(view, lens={}),
  ),
)
