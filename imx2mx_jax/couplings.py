"""Other ways to combine a teacher and a student than distillation; nothing is trained.

`polished` lets the teacher go over views that are there already. `coupled` walks both down their
own trajectories and pulls them together at each step, as coupled diffusion sampling does (arXiv
2510.14981). `collaborative` moves the views' latents themselves by the teacher's scores, which the
views share by likeness (collaborative score distillation, Kim et al., NeurIPS 2023).
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from imx2mx_jax import diffusion, distill
from imx2mx_jax.shapes import Array, Float, Key, Params, np
from imx2mx_jax.teachers import SCHEDULE, Teacher


@functools.partial(jax.jit, static_argnames=("ts", "cross_view"))
def polished(
  teacher: Teacher,
  z0: Float[Array, "N h w 4"],
  key: Key[Array, ""],
  *,
  ts: tuple[int, ...],
  cross_view: bool = True,
) -> Float[Array, "N h w 4"]:
  """The views noised to the first of the descending timesteps and denoised from there.

  z0: scaled latents on the teacher's grid. cross_view: all views look at a key view, another one at
  each step; no fresh noise. The last step gives the clean estimate itself.
  """
  for_noise, for_views = jax.random.split(key)
  z = diffusion.add_noise(
    z0, jax.random.normal(for_noise, z0.shape), *SCHEDULE.alpha_sigma(jnp.int32(ts[0]))
  )
  key_views = jax.random.randint(for_views, (len(ts),), 0, len(z0))

  def step(carry, inputs):
    (z, _), (t, after, key_view) = carry, inputs
    eps_hat = teacher.predict_noise(z, t, key_view if cross_view else None)
    z0 = diffusion.predict_z0(z, eps_hat, *SCHEDULE.alpha_sigma(t))
    return (diffusion.add_noise(z0, eps_hat, *SCHEDULE.alpha_sigma(after)), z0), None

  levels = jnp.asarray(ts), jnp.asarray((*ts[1:], 0)), key_views
  return jax.lax.scan(step, (z, z0), levels)[0][1]


@functools.partial(jax.jit, static_argnames=("method", "taus", "pull"))
def coupled(
  method: distill.Method,
  student: Params,
  teacher: Teacher,
  cond: Any,
  zeta: Float[Array, "T h w 4"],
  key: Key[Array, ""],
  *,
  taus: tuple[int, ...],
  pull: float,
) -> Float[Array, "T h w 4"]:
  """What two samplings that are pulled together end with: the student's clean estimate, pulled.

  zeta: noise at the level of the first of the descending timesteps, which both walk down, the
  teacher without fresh noise. pull: the share of the difference between the two clean estimates by
  which each moves towards the other; 0: they know nothing of each other.
  """
  views = len(zeta) - 1
  for_noise, for_views = jax.random.split(key)
  z = jax.random.normal(for_noise, (views, *method.grid, zeta.shape[-1]))
  key_views = jax.random.randint(for_views, (len(taus),), 0, views)
  places = jnp.asarray(taus)
  following = jnp.asarray((*taus[1:], taus[-1]))

  def step(carry, inputs):
    (zeta, z, _), (tau, after, key_view) = carry, inputs
    zeta0 = method.student.predict(student, cond, zeta, tau)
    alpha, sigma = SCHEDULE.alpha_sigma(tau)
    eps_hat = teacher.predict_noise(z, tau, key_view if method.cross_view else None)
    z0 = diffusion.predict_z0(z, eps_hat, alpha, sigma)

    apart = z0 - distill.align(method, {}, zeta0)
    enlarged = jax.image.resize(apart, zeta0[1:].shape, "linear")
    pulled = zeta0.at[1:].add(pull * enlarged)
    z0 = z0 - pull * apart
    levels = (method.student.schedule.sigma(place) for place in (tau, after))
    zeta = diffusion.euler_step(zeta, pulled, *levels)
    z = diffusion.add_noise(z0, (z - alpha * z0) / sigma, *SCHEDULE.alpha_sigma(after))
    return (zeta, z, pulled), None

  carry = zeta, z, jnp.zeros_like(zeta)
  return jax.lax.scan(step, carry, (places, following, key_views))[0][2]


@functools.partial(jax.jit, static_argnames=("iterations", "rate", "lowest", "highest"))
def collaborative(
  teacher: Teacher,
  z0: Float[Array, "N h w 4"],
  key: Key[Array, ""],
  *,
  iterations: int,
  rate: float,
  lowest: int,
  highest: int,
) -> Float[Array, "N h w 4"]:
  """The views' latents after Adam's steps along their shared scores.

  z0: the photographs' latents. rate: Adam's. lowest, highest: of the teacher's timesteps. The score
  of a view is what the text adds: the teacher's guided noise without that at a text scale of zero.
  """
  plain = dataclasses.replace(teacher, text_scale=jnp.zeros_like(teacher.text_scale))
  adam = optax.adam(rate)

  def step(i, carry):
    z0, moments = carry
    for_t, for_noise = jax.random.split(jax.random.fold_in(key, i))
    t = jax.random.randint(for_t, (), lowest, highest + 1)
    eps = jax.random.normal(for_noise, z0.shape)
    z_t = diffusion.add_noise(z0, eps, *SCHEDULE.alpha_sigma(t))
    scores = teacher.predict_noise(z_t, t, None) - plain.predict_noise(z_t, t, None)
    updates, moments = adam.update(shared(z0, scores), moments)
    return optax.apply_updates(z0, updates), moments

  return jax.lax.fori_loop(0, iterations, step, (z0, adam.init(z0)))[0]


def shared(z0: Float[Array, "N h w 4"], scores: Float[Array, "N h w 4"]) -> Float[Array, "N h w 4"]:
  """Stein's variational gradient: each view takes part in the others' scores, and is held off them.

  The kernel is exp(-d / b) of squared distances d, b their median over log N.
  """
  count = len(z0)
  rows, weights = z0.reshape(count, -1), scores.reshape(count, -1)
  apart = rows[:, None] - rows[None]
  squares = jnp.square(apart).sum(axis=-1)
  bandwidth = jnp.median(squares[~np.eye(count, dtype=bool)]) if count > 1 else 1.0
  bandwidth = jnp.maximum(bandwidth / jnp.log(max(count, 2)), 1e-12)
  kernel = jnp.exp(-squares / bandwidth)
  repelled = 2 / bandwidth * jnp.einsum("ij,ijd->id", kernel, apart)
  return ((kernel @ weights - repelled) / count).reshape(z0.shape)
