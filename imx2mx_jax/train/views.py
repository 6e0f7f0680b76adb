"""Camera algebra inside a compiled step: cameras.py's on the device, in float32."""

import jax.numpy as jnp

from imx2mx_jax import cameras
from imx2mx_jax.shapes import Array, Float


def normalise_cameras(c2w: Float[Array, "T 4 4"], scale: float = 2.0) -> Float[Array, "T 4 4"]:
  """cameras.normalise_cameras of one set. A single camera comes to lie at the origin."""
  positions = c2w[:, :3, 3] - c2w[0, :3, 3]
  if len(positions) > 1:
    views = positions[1:]
    distances = jnp.linalg.norm(views - jnp.median(views, axis=0), axis=1)
    limit = 10 * jnp.median(distances)
    inliers = (distances <= limit) | (limit == 0)
    mean = lambda x: (x * inliers[:, None]).sum(axis=0) / inliers.sum()
    centre = mean(views)
    spread = mean(jnp.linalg.norm(views - centre, axis=1)[:, None])[0]
    unit = jnp.maximum(jnp.linalg.norm(centre), spread / 4)
    positions = (positions - centre) * (scale / jnp.where(unit > 0, unit, 1))
  return c2w.at[:, :3, 3].set(positions)


def plucker(
  c2w: Float[Array, "T 4 4"], K: Float[Array, "T 3 3"], hw: tuple[int, int]
) -> Float[Array, "T h w 6"]:
  """cameras.plucker: ray maps (unit direction, moment) in the axes of the first camera."""
  turn, centre = c2w[0, :3, :3], c2w[0, :3, 3]
  rotations = jnp.einsum("ji,tjk->tik", turn, c2w[:, :3, :3], precision="highest")
  positions = jnp.einsum("ji,tj->ti", turn, c2w[:, :3, 3] - centre, precision="highest")
  points = jnp.pad(
    jnp.asarray(cameras.pixel_centres(hw), jnp.float32),
    ((0, 0), (0, 0), (0, 1)),
    constant_values=1,
  )
  back = jnp.matmul(rotations, jnp.linalg.inv(K), precision="highest")
  rays = jnp.einsum("tij,hwj->thwi", back, points, precision="highest")
  rays = rays / jnp.linalg.norm(rays, axis=-1, keepdims=True)
  moments = jnp.cross(jnp.broadcast_to(positions[:, None, None], rays.shape), rays)
  return jnp.concatenate([rays, moments], axis=-1)
