"""Scenes of two textured walls, one before the other, photographed by cameras that are known."""

import json
import pathlib

import cv2
import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

HW = (240, 320)
K = np.array([[300.0, 0, 160], [0, 300, 120], [0, 0, 1]])
WALLS = {0.0: 6.0, 0.9: 1.6}  # {z, which points to the cameras: side}


def pose(angle: float) -> np.ndarray:
  """Camera-to-world, OpenGL axes, looking at the walls from `angle` degrees beside their front."""
  c2w = np.eye(4)
  c2w[:3, :3] = Rotation.from_euler(
    "yxz", [angle, -6 + angle / 4, angle / 5], degrees=True
  ).as_matrix()
  c2w[:3, 3] = c2w[:3, 2] * 3.2
  return c2w


def photograph(c2w: np.ndarray) -> np.ndarray:
  """[H W 3] uint8: what a pinhole with K sees there."""
  picture = np.zeros((*HW, 3), np.uint8)
  w2c = np.linalg.inv(c2w * [1, -1, -1, 1])
  for seed, (depth, side) in enumerate(WALLS.items()):
    texture = _texture(seed)
    to_wall = np.array([[side, 0, -side / 2], [0, -side, side / 2], [0, 0, depth], [0, 0, 1]])
    to_wall[:, :2] /= len(texture)
    H = K @ w2c[:3] @ to_wall
    wall = cv2.warpPerspective(texture, H, HW[::-1], flags=cv2.INTER_AREA)
    mask = cv2.warpPerspective(np.ones(texture.shape[:2], np.uint8), H, HW[::-1])
    picture = np.where(mask[..., None] > 0, wall, picture)
  return picture


def write(folder: pathlib.Path, angles=(-12, -4, 4, 12), **top) -> dict:
  """Writes a scene and gives what its transforms.json says, for a test to change."""
  (folder / "images").mkdir(parents=True)
  frames = []
  for index, angle in enumerate(angles):
    Image.fromarray(photograph(pose(angle))).save(folder / f"images/{index}.png")
    frames.append({"file_path": f"images/{index}.png", "transform_matrix": pose(angle).tolist()})
  sides = {"w": HW[1], "h": HW[0], "cx": K[0, 2], "cy": K[1, 2]}
  transforms = {"fl_x": K[0, 0], "fl_y": K[1, 1], **sides, **top, "frames": frames}
  save(folder, transforms)
  return transforms


def save(folder: pathlib.Path, transforms: dict) -> None:
  (folder / "transforms.json").write_text(json.dumps(transforms))


def _texture(seed: int, side: int = 1024) -> np.ndarray:
  """Blobs of several sizes and colours."""
  rng, total = np.random.default_rng(seed), 0
  for cells in (16, 48, 128):
    noise = rng.random((cells, cells, 3), np.float32)
    total = total + cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)
  return cv2.normalize(total, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
