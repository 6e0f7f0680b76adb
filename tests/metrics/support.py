"""What the tests of the measures have in common."""

import pathlib

import cv2
import numpy as np

import imx2mx_jax

MICRO = pathlib.Path(imx2mx_jax.__file__).parent / "micro"
BUNDLED = MICRO / "bundled"


def smooth(seed: int, shape: tuple[int, ...], sigma: float = 2.0) -> np.ndarray:
  """Pictures of soft coloured blobs, uint8; shape: (.., height, width)."""
  noise = np.random.default_rng(seed).random((*shape, 3), np.float32).reshape(-1, *shape[-2:], 3)
  blurred = np.stack([cv2.GaussianBlur(picture, (0, 0), sigma) for picture in noise])
  low, high = blurred.min(), blurred.max()
  return np.rint(255 * (blurred - low) / (high - low)).astype(np.uint8).reshape(*shape, 3)


K = np.array([[1.2, 0, 0.5], [0, 1.2, 0.5], [0, 0, 1]])
"""Intrinsics in units of the picture's side."""


def looking(x: float, y: float = 0.0) -> np.ndarray:
  """The pose of a camera at (x, y, -3) that looks at the origin; OpenCV axes, y down."""
  position = np.array([x, y, -3.0])
  forward = -position / np.linalg.norm(position)
  right = np.cross([0, 1, 0], forward)
  right /= np.linalg.norm(right)
  c2w = np.eye(4)
  c2w[:3] = np.stack([right, np.cross(forward, right), forward, position], axis=1)
  return c2w


def room(texture: np.ndarray, c2w: np.ndarray, size: int = 192) -> tuple[np.ndarray, np.ndarray]:
  """A view of two textured planes that stand behind one another: picture (uint8) and depth.

  texture: [2 H W 3]. The nearer plane, at z = -0.4, covers x < 0; the other one is at z = 0.4.
  """
  u, v = np.meshgrid(*[(np.arange(size) + 0.5) / size] * 2)
  rays = np.stack([(u - 0.5) / K[0, 0], (v - 0.5) / K[1, 1], np.ones_like(u)], axis=-1)
  rays, origin = rays @ c2w[:3, :3].T, c2w[:3, 3]
  depths = [(z - origin[2]) / rays[..., 2] for z in (-0.4, 0.4)]
  near = (origin + depths[0][..., None] * rays)[..., 0] < 0
  depth = np.where(near, *depths)
  points = origin + depth[..., None] * rays
  place = ((points[..., :2] / 5 + 0.5) * texture.shape[2]).astype(np.float32)
  seen = [cv2.remap(x, place[..., 0], place[..., 1], cv2.INTER_LINEAR) for x in texture]
  return np.where(near[..., None], *seen), depth
