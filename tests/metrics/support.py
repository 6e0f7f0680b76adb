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
