"""Camera paths: from where the inputs stood, cameras from where nobody stood.

Poses are camera-to-world, OpenCV axes (x right, y down, z forward), float64; intrinsics in units of
the picture's sides. A path is a function `(start, frames, extent) -> (c2w, K)`: it begins at the
start's own camera, `extent` multiplies its size, and a path that closes does not repeat its first
camera. All but `along` know the start alone.
"""

import dataclasses
from collections.abc import Callable

from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation, RotationSpline

from imx2mx_jax.shapes import Float, np

Cameras = tuple[Float[np.ndarray, "_ 4 4"], Float[np.ndarray, "_ 3 3"]]
"""Poses and intrinsics of as many cameras."""

_ARC = 60.0  # degrees
_SWING = 0.25  # of the distance to the target: how far spirals, lemniscates and moves go
_TURNS = 2  # of a spiral
_ZOOM = 2.0
_STEEP = 60.0  # degrees between two directions to a point, from where one tells little of the other
_GRID = 8
_TIE = 1e-3  # weight of the upward axes against the right ones


@dataclasses.dataclass(frozen=True)
class Start:
  """Where a path begins: a camera, the point on its axis that it looks at, and which way is up."""

  c2w: Float[np.ndarray, "4 4"]
  K: Float[np.ndarray, "3 3"]
  target: Float[np.ndarray, "3"]
  up: Float[np.ndarray, "3"]

  @property
  def distance(self) -> float:
    """From the camera to the target."""
    return float(np.linalg.norm(self.target - self.c2w[:3, 3]))


Path = Callable[[Start, int, float], Cameras]


# --- what the inputs tell --------------------------------------------------------------------


def start(c2w: Float[np.ndarray, "N 4 4"], K: Float[np.ndarray, "N 3 3"], first: int = 0) -> Start:
  """The start at input `first`, its target the point of its axis nearest to `look_at`."""
  eye, axis = c2w[first, :3, 3], c2w[first, :3, 2]
  depth = (look_at(c2w) - eye) @ axis
  return Start(c2w[first], K[first], eye + depth * axis, up(c2w))


def look_at(c2w: Float[np.ndarray, "N 4 4"]) -> Float[np.ndarray, "3"]:
  """The point nearest to all optical axes, by least squares.

  Where they do not meet in front of every camera (one input, parallel axes, cameras that look
  outwards) it lies in front of the first one, twice as far as the inputs are from their middle; 1
  where that is nothing.
  """
  eyes, axes = c2w[:, :3, 3], c2w[:, :3, 2]
  across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
  total = across.sum(axis=0)
  if np.linalg.eigvalsh(total)[0] > 1e-4 * len(c2w):
    point = np.linalg.solve(total, np.einsum("nij,nj->i", across, eyes))
    if (((point - eyes) * axes).sum(axis=1) > 0).all():
      return point
  spread = np.linalg.norm(eyes - eyes.mean(axis=0), axis=1).mean()
  return eyes[0] + (2 * spread or 1.0) * axes[0]


def up(c2w: Float[np.ndarray, "N 4 4"]) -> Float[np.ndarray, "3"]:
  """The direction that is most square to the cameras' right axes, of length 1.

  That is what level cameras have in common, however far they look down. Where right axes are nearly
  the same it is the mean of the upward axes.
  """
  right, upward = c2w[:, :3, 0], -c2w[:, :3, 1].mean(axis=0)
  squares = right.T @ right / len(c2w) - _TIE * np.outer(upward, upward)
  axis = np.linalg.eigh(squares)[1][:, 0]
  return axis if axis @ upward > 0 else -axis


def unseen(
  cameras: Cameras, inputs: Cameras, target: Float[np.ndarray, "3"]
) -> Float[np.ndarray, " F"]:
  """The share of each camera's picture that no input saw, as far as cameras alone tell.

  Counted on the plane through the target that faces the camera. A point is seen by an input if it
  lies in its picture, in a direction less than 60 degrees from the camera's.
  """
  return np.array([_unseen(c2w, K, inputs, target) for c2w, K in zip(*cameras, strict=True)])


def _unseen(c2w: np.ndarray, K: np.ndarray, inputs: Cameras, target: np.ndarray) -> float:
  depth = max((target - c2w[:3, 3]) @ c2w[:3, 2], 1e-6)
  u, v = np.meshgrid(*[(np.arange(_GRID) + 0.5) / _GRID] * 2)
  rays = np.stack([u, v, np.ones_like(u)], axis=-1).reshape(-1, 3) @ np.linalg.inv(K).T
  rays = rays @ c2w[:3, :3].T
  points = c2w[:3, 3] + depth * rays
  seen = np.zeros(len(points), bool)
  for pose, intrinsics in zip(*inputs, strict=True):
    towards = points - pose[:3, 3]
    x, y, z = (towards @ pose[:3, :3]).T
    front = z > 1e-9
    z = np.where(front, z, 1)
    at = np.stack([x / z, y / z, np.ones_like(z)]).T @ intrinsics.T
    inside = (at[:, :2] >= 0).all(axis=1) & (at[:, :2] <= 1).all(axis=1)
    cosine = (towards * rays).sum(axis=1)
    cosine /= np.linalg.norm(towards, axis=1) * np.linalg.norm(rays, axis=1)
    seen |= front & inside & (cosine > np.cos(np.radians(_STEEP)))
  return float(1 - seen.mean())


# --- paths -----------------------------------------------------------------------------------


def orbit(start: Start, frames: int, extent: float = 1.0) -> Cameras:
  """Once around the target, about the up axis."""
  return _turned(start, _closed(frames) * 360 * extent)


def arc(start: Start, frames: int, extent: float = 1.0) -> Cameras:
  """To the right, to the left and back, 60 degrees in all, about the up axis."""
  return _turned(start, _ARC / 2 * extent * np.sin(2 * np.pi * _closed(frames)))


def spiral(start: Start, frames: int, extent: float = 1.0) -> Cameras:
  """Two turns on an ellipse in the picture's plane, in and out along the axis, facing the target.

  The ellipse passes through the start.
  """
  t = 2 * np.pi * _TURNS * _closed(frames)
  offsets = np.stack([1 - np.cos(t), np.sin(t), np.sin(t / _TURNS)], axis=1)
  return _facing(start, offsets * start.distance * _SWING * extent * [1, 0.5, 0.5])


def lemniscate(start: Start, frames: int, extent: float = 1.0) -> Cameras:
  """A lying figure of eight in the picture's plane, facing the target; the start is its middle."""
  t = 2 * np.pi * _closed(frames)
  x, y = np.sin(t), np.sin(t) * np.cos(t)
  offsets = np.stack([x, y, 0 * t], axis=1) / (1 + np.cos(t) ** 2)[:, None]
  return _facing(start, offsets * start.distance * 2 * _SWING * extent)


def along(inputs: Cameras, frames: int) -> Cameras:
  """From the first input to the last, through all of them: splines of poses and intrinsics."""
  c2w, K = inputs
  at = np.linspace(0, len(c2w) - 1, frames)
  given = np.arange(len(c2w))
  poses = np.broadcast_to(np.eye(4), (frames, 4, 4)).copy()
  poses[:, :3, 3] = CubicSpline(given, c2w[:, :3, 3])(at)
  poses[:, :3, :3] = RotationSpline(given, Rotation.from_matrix(c2w[:, :3, :3]))(at).as_matrix()
  flat = K.reshape(len(K), -1).T
  return poses, np.stack([np.interp(at, given, row) for row in flat], axis=1).reshape(-1, 3, 3)


def _zoom(power: float) -> Path:
  def zoom(start: Start, frames: int, extent: float = 1.0) -> Cameras:
    factors = _ZOOM ** (power * extent * _open(frames))
    return _repeated(start.c2w, frames), _focal(start, factors)

  return zoom


def _dolly_zoom(power: float) -> Path:
  def dolly_zoom(start: Start, frames: int, extent: float = 1.0) -> Cameras:
    nearer = _ZOOM ** (-power * extent * _open(frames))  # distances, of the first one
    offsets = np.outer(start.distance * (1 - nearer), [0, 0, 1])
    return _moved(start, offsets), _focal(start, nearer)

  return dolly_zoom


def _move(direction: tuple[float, float, float]) -> Path:
  def move(start: Start, frames: int, extent: float = 1.0) -> Cameras:
    far = start.distance * _SWING * extent * _open(frames)
    return _moved(start, np.outer(far, direction)), _repeated(start.K, frames)

  return move


def roll(start: Start, frames: int, extent: float = 1.0) -> Cameras:
  """Once around the optical axis."""
  degrees = 360 * extent * _closed(frames)
  about = Rotation.from_rotvec(np.outer(degrees, [0, 0, 1]), degrees=True).as_matrix()
  poses = _repeated(start.c2w, frames)
  poses[:, :3, :3] = poses[:, :3, :3] @ about
  return poses, _repeated(start.K, frames)


PATHS: dict[str, Path] = {
  "orbit": orbit,
  "arc": arc,
  "spiral": spiral,
  "lemniscate": lemniscate,
  "zoom-in": _zoom(1),
  "zoom-out": _zoom(-1),
  "dolly-zoom-in": _dolly_zoom(1),
  "dolly-zoom-out": _dolly_zoom(-1),
  "move-forward": _move((0, 0, 1)),
  "move-backward": _move((0, 0, -1)),
  "move-left": _move((-1, 0, 0)),
  "move-right": _move((1, 0, 0)),
  "move-up": _move((0, -1, 0)),
  "move-down": _move((0, 1, 0)),
  "roll": roll,
}
"""{name: path}. Zooms change the focal length alone, twofold; dolly zooms walk to half or twice the
distance while the target keeps its size; moves go a quarter of the way to the target."""


def _open(frames: int) -> np.ndarray:
  return np.linspace(0, 1, frames)


def _closed(frames: int) -> np.ndarray:
  return np.arange(frames) / frames


def _repeated(matrix: np.ndarray, frames: int) -> np.ndarray:
  return np.repeat(matrix[None], frames, axis=0)


def _focal(start: Start, factors: np.ndarray) -> np.ndarray:
  K = _repeated(start.K, len(factors))
  K[:, [0, 1], [0, 1]] *= factors[:, None]
  return K


def _turned(start: Start, degrees: np.ndarray) -> Cameras:
  """The start's camera turned about the up axis through the target."""
  about = Rotation.from_rotvec(np.outer(degrees, start.up), degrees=True).as_matrix()
  poses = _repeated(start.c2w, len(degrees))
  poses[:, :3, :3] = about @ start.c2w[:3, :3]
  poses[:, :3, 3] = start.target + about @ (start.c2w[:3, 3] - start.target)
  return poses, _repeated(start.K, len(degrees))


def _moved(start: Start, offsets: np.ndarray) -> np.ndarray:
  """The start's camera elsewhere; offsets [F 3] in its own axes."""
  poses = _repeated(start.c2w, len(offsets))
  poses[:, :3, 3] += offsets @ start.c2w[:3, :3].T
  return poses


def _facing(start: Start, offsets: np.ndarray) -> Cameras:
  """The start's camera elsewhere, facing the target; offsets [F 3] in its own axes.

  It leans as the start does: each pose is the start's under the smallest rotation of its axis.
  """
  poses = _moved(start, offsets)
  before, axes = start.c2w[:3, 2], start.target - poses[:, :3, 3]
  axes /= np.linalg.norm(axes, axis=1, keepdims=True)
  across = np.cross(before, axes)
  sine, cosine = np.linalg.norm(across, axis=1, keepdims=True), (axes @ before)[:, None]
  angle = np.arctan2(sine, cosine)
  about = Rotation.from_rotvec(across / np.where(sine > 0, sine, 1) * angle).as_matrix()
  poses[:, :3, :3] = about @ start.c2w[:3, :3]
  return poses, _repeated(start.K, len(offsets))
