"""The student's optimizer: clipping, AdamW, and a learning rate that warms up and anneals."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from imx2mx_jax.shapes import Array, Float, Num


@dataclasses.dataclass(frozen=True)
class LearningRate:
  """From `start` linearly to `peak` at iteration warmup - 1, then by a cosine to `final`.

  decay: how many iterations the cosine takes.
  """

  peak: float
  final: float
  warmup: int
  decay: int
  start: float

  @classmethod
  def over(cls, total: int, *, peak: float, final: float, warmup: int) -> "LearningRate":
    """The rate of a run of `total` iterations, the last of which has the final rate.

    The warm-up takes at most half of them.
    """
    warmup = min(warmup, total // 2)
    return cls(peak, final, warmup, max(total - 1 - warmup, 1), peak / max(warmup, 1))

  @classmethod
  def authors(
    cls, dt: int, iterations: int, *, peak: float, final: float, warmup: int, start: float = 1e-9
  ) -> "LearningRate":
    """The authors' rate, which anneals as if all 1000 / dt timesteps had the same `iterations`.

    The first one has more, so a run ends with iterations at the constant final rate; and its
    iteration 0 has the rate `start`, which is next to nothing.
    """
    decay = int(1000 / dt * iterations - warmup)
    return cls(peak, final, warmup, decay, peak if warmup == 1 else start)

  def __call__(self, step: int | Num[Array, "*steps"]) -> Float[Array, "*steps"]:
    """The rate of iteration `step`, counted from 0; an optax schedule."""
    warming = self.start + (self.peak - self.start) * step / max(self.warmup - 1, 1)
    progress = jnp.clip((step - self.warmup) / self.decay, 0, 1) if self.decay > 0 else 1.0
    annealing = self.final + (self.peak - self.final) * (1 + jnp.cos(jnp.pi * progress)) / 2
    return jnp.where(step < self.warmup, warming, annealing)


class ClipState(NamedTuple):
  """norm: of the last gradient, before it was clipped."""

  norm: Float[Array, ""]


@functools.cache
def optimizer(
  rate: LearningRate,
  *,
  clip_norm: float = 0.5,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  weight_decay: float = 0.01,
  authors: bool = False,
  memory: str = "default",
  muon: bool = False,
) -> optax.GradientTransformation:
  """Clips the gradient's global norm, then AdamW with decoupled decay.

  Kernels and embeddings are decayed, norms and biases (fewer than two dimensions) are not; the
  authors decay everything. memory: "small" keeps AdamW's first moments in bfloat16; "smallest"
  keeps no first moments and of the second ones only means of rows and columns, as Adafactor does.
  muon: kernels take Muon's orthogonal steps, as long as AdamW's are, whatever the memory. The same
  settings give the same object, so that a program compiled for it serves every run with these
  settings.
  """
  decayed = None if authors else matrices
  first = jnp.bfloat16 if memory == "small" else None
  if muon:
    rule = stacked(
      optax.contrib.muon(
        rate,
        weight_decay=weight_decay,
        adam_b1=b1,
        adam_b2=b2,
        muon_weight_dimension_numbers=_reduced_axes,
        consistent_rms=0.2,  # the length of AdamW's steps, arXiv 2502.16982
      )
    )
  elif memory == "smallest":
    rule = optax.chain(
      optax.scale_by_factored_rms(decay_rate=0.8, epsilon=1e-30),  # arXiv 1804.04235
      optax.clip_by_block_rms(1.0),
      optax.add_decayed_weights(weight_decay, decayed),
      optax.scale_by_learning_rate(rate),
    )
  else:
    rule = optax.adamw(rate, b1, b2, eps, mu_dtype=first, weight_decay=weight_decay, mask=decayed)
  return optax.chain(clip_by_global_norm(clip_norm), rule)


def stacked(rule: optax.GradientTransformation) -> optax.GradientTransformation:
  """The same rule on stacks: kernels of equal shape lie in one array, and so do other parameters.

  For rules of many operations, as Muon's: a stack takes them once, so that there is less to
  compile. Parameters are a flat dict of paths.
  """

  def stack(tree: Any) -> Any:
    return {name: jnp.stack([tree[path] for path in paths]) for name, paths in _alike(tree).items()}

  def update(updates: Any, state: Any, params: Any = None):
    stacks, state = rule.update(stack(updates), state, None if params is None else stack(params))
    apart = {}
    for name, paths in _alike(updates).items():
      apart |= zip(paths, stacks[name], strict=True)
    return apart, state

  return optax.GradientTransformation(lambda params: rule.init(stack(params)), update)


def _alike(tree: Any) -> dict[str, list[str]]:
  """{shape and whether it is of kernels: the paths}."""
  groups: dict[str, list[str]] = {}
  for path in sorted(tree):
    kind = "kernel" if path.endswith("kernel") else "other"
    groups.setdefault(f"{'x'.join(map(str, tree[path].shape))}/{kind}", []).append(path)
  return groups


def _reduced_axes(stacks: Any) -> Any:
  """For Muon: kernels are matrices from all axes but the last to the last; None for others."""

  def axes(path: tuple, leaf: Array) -> optax.contrib.MuonDimensionNumbers | None:
    if not path[-1].key.endswith("kernel"):
      return None
    return optax.contrib.MuonDimensionNumbers(tuple(range(1, leaf.ndim - 1)), leaf.ndim - 1)

  return jax.tree_util.tree_map_with_path(axes, stacks)


def matrices(params: Any) -> Any:
  """Which parameters of a pytree have two or more dimensions."""
  return jax.tree.map(lambda leaf: leaf.ndim >= 2, params)


def clip_by_global_norm(limit: float) -> optax.GradientTransformation:
  """optax.clip_by_global_norm that remembers the norm, so that reporting it costs nothing more."""

  def init(params: Any) -> ClipState:
    del params
    return ClipState(jnp.zeros([]))

  def update(gradients: Any, state: ClipState, params: Any = None):
    del state, params
    norm = optax.tree.norm(gradients)
    scale = limit / jnp.maximum(norm, limit)
    return jax.tree.map(lambda g: g * scale, gradients), ClipState(norm)

  return optax.GradientTransformation(init, update)


def gradient_norm(state: tuple) -> Float[Array, ""]:
  """The global norm of the last gradient before clipping, from the optimizer's state."""
  return state[0].norm
