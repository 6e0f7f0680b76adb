"""InstructMix2Mix: a 2D editor distilled, per scene, into a multi-view diffusion model.

The method of arXiv 2511.14899 as functions over a small state. The student's weights are
personalised by the teacher's score distillation gradients while its latents zeta walk once down
its own denoising trajectory: at every student timestep tau some iterations of `distill_step`, then
one `student_step`. Symbols are METHOD.md's.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from imx2mx_jax import diffusion, optim, sharding
from imx2mx_jax.models.network import Network
from imx2mx_jax.shapes import Array, Bool, Float, Int, Key, Params
from imx2mx_jax.students import Student
from imx2mx_jax.teachers import SCHEDULE, Teacher


@flax.struct.dataclass
class DistillState:
  """All that changes during a run.

  step: iterations done, all timesteps together. params: {"student": ..., "mapping": ...}, float32.
  latents: zeta at the student timestep tau. prediction: the last zeta0_hat. skipped: updates not
  applied because a gradient was not finite. average: the student's weights, averaged; empty where
  the method does not ask for it.
  """

  step: Int[Array, ""]
  params: dict[str, Params]
  opt_state: optax.OptState
  latents: Float[Array, "T h w 4"]
  prediction: Float[Array, "T h w 4"]
  tau: Int[Array, ""]
  skipped: Int[Array, ""]
  average: Params = flax.struct.field(default_factory=dict)


@flax.struct.dataclass
class Draws:
  """The randomness of one iteration: teacher timestep t, key view kappa, noise eps."""

  t: Int[Array, ""]
  key_view: Int[Array, ""]
  noise: Float[Array, "N h w 4"]


@flax.struct.dataclass
class Metrics:
  """What one iteration reports. grad_norm: before clipping. lr: the rate of this iteration."""

  loss: Float[Array, ""]
  grad_norm: Float[Array, ""]
  lr: Float[Array, ""]
  t: Int[Array, ""]
  tau: Int[Array, ""]
  key_view: Int[Array, ""]
  skipped: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class Method:
  """What does not change during a run.

  grid: the teacher's latent size. teacher_t: rule for the teacher's timestep, of
  diffusion.teacher_timestep, with its bounds. teacher_t_fall: by how much the upper one is lower
  when tau is 0. cross_view: random cross-view attention. unit: the teacher's difference is divided
  by its root mean square, so that all its timesteps count alike. average: the decay of averaged
  weights, with which zeta is stepped; 0: none. authors: non-finite differences count as zero
  instead of stopping the update.
  """

  student: Student
  rate: optim.LearningRate
  optimizer: optax.GradientTransformation
  grid: tuple[int, int]
  teacher_t: str = "truncated_normal"
  teacher_t_highest: int = 950
  teacher_t_shape_factor: float = 0.5
  teacher_t_fall: int = 0
  cross_view: bool = True
  unit: bool = False
  average: float = 0.0
  authors: bool = False


def init(
  method: Method,
  student: Params,
  mapping: Params,
  noise: Float[Array, "T h w 4"],
  tau: int,
) -> DistillState:
  """The state before the first iteration, at timestep tau: zeta = noise sqrt(1 + sigma_tau^2)."""
  params = {"student": student, "mapping": mapping}
  return DistillState(
    step=jnp.int32(0),
    params=params,
    opt_state=method.optimizer.init(params),
    latents=noise * method.student.schedule.init_scale(tau),
    prediction=jnp.zeros_like(noise),
    tau=jnp.int32(tau),
    skipped=jnp.int32(0),
    average=jax.tree.map(jnp.copy, student) if method.average else {},
  )


def init_from(
  method: Method,
  student: Params,
  zeta0: Float[Array, "T h w 4"],
  noise: Float[Array, "T h w 4"],
  tau: int,
) -> DistillState:
  """SDEdit's beginning: clean latents noised to tau, from where the student alone walks down."""
  zeta = method.student.schedule.noised(zeta0, noise, tau)
  return dataclasses.replace(init(method, student, {}, noise, tau), latents=zeta)


def draws(
  method: Method, key: Key[Array, ""], step: Int[Array, ""], tau: Int[Array, ""], views: int
) -> Draws:
  """The draws of iteration `step`: from the run's key and from nowhere else."""
  for_t, for_view, for_noise = jax.random.split(jax.random.fold_in(key, step), 3)
  t = diffusion.teacher_timestep(
    jax.random.uniform(for_t),
    tau,
    method.teacher_t,
    highest=_highest(method, tau),
    shape_factor=method.teacher_t_shape_factor,
  )
  key_view = jax.random.randint(for_view, (), 0, views)
  return Draws(t, key_view, jax.random.normal(for_noise, (views, *method.grid, 4)))


def _highest(method: Method, tau: Int[Array, ""]) -> int | Int[Array, ""]:
  """The upper bound of the teacher's timestep at the student's: above tau as long as it can be."""
  highest, fall = method.teacher_t_highest, method.teacher_t_fall
  if not fall:
    return highest
  last = len(method.student.schedule.sigmas) - 1
  lowered = highest - fall * (last - tau) // last
  return jnp.maximum(lowered, jnp.minimum(tau + 1, highest))


def identity_mapping(channels: int = 4) -> Params:
  """The learned mapping before it has learned: a 3x3 convolution that changes nothing."""
  kernel = jnp.zeros((3, 3, channels, channels)).at[1, 1].set(jnp.eye(channels))
  return {"kernel": kernel, "bias": jnp.zeros(channels)}


def align(
  method: Method, mapping: Params, zeta0: Float[Array, "T h w 4"]
) -> Float[Array, "N h2 w2 4"]:
  """z0_hat: the output frames on the teacher's grid, half-pixel centres, no antialiasing.

  mapping: empty, or the ablation's small convolution, which follows the resize.
  """
  frames = zeta0[1:]
  shape = (len(frames), *method.grid, frames.shape[-1])
  z0 = jax.image.resize(frames, shape, "linear", antialias=False)
  if not mapping:
    return z0
  layout = ("NHWC", "HWIO", "NHWC")
  kernel, bias = mapping["kernel"], mapping["bias"]
  return jax.lax.conv_general_dilated(z0, kernel, (1, 1), "SAME", dimension_numbers=layout) + bias


def distill_step(
  method: Method,
  state: DistillState,
  teacher: Teacher,
  cond: Any,
  draws: Draws,
  mask: Float[Array, "N h w 1"] | None = None,
) -> tuple[DistillState, Metrics]:
  """One iteration at the student timestep tau (the paper's algorithm).

  mask: on the teacher's grid, what the gradient is multiplied by.
  """
  t, eps = draws.t, draws.noise
  key_view = draws.key_view if method.cross_view else None

  def loss_fn(params: dict[str, Params]):
    # 1. Student query, all T frames in one forward pass; 2. alignment to the teacher's grid.
    zeta0_hat = method.student.predict(params["student"], cond, state.latents, state.tau)
    z0_hat = align(method, params["mapping"], zeta0_hat)
    # 3. Perturbation; 4. guided teacher prediction, all views looking at the key view kappa.
    z_t = diffusion.add_noise(jax.lax.stop_gradient(z0_hat), eps, *SCHEDULE.alpha_sigma(t))
    eps_hat = teacher.predict_noise(z_t, t, key_view)
    if mask is not None:
      eps_hat = eps + mask * (eps_hat - eps)
    if method.unit:
      eps_hat = eps + diffusion.unit(eps_hat - eps)
    # 5. Score distillation: the gradient flows through 1 and 2 only.
    return diffusion.sds_loss(z0_hat, eps_hat, eps, authors=method.authors), zeta0_hat

  (loss, zeta0_hat), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
  grads = sharding.lay_tree(grads)
  updates, opt_state = method.optimizer.update(grads, state.opt_state, state.params)
  grad_norm = optim.gradient_norm(opt_state)
  finite = jnp.isfinite(grad_norm)
  keep = functools.partial(jax.tree.map, functools.partial(jnp.where, finite))
  params = keep(optax.apply_updates(state.params, updates), state.params)
  new = dataclasses.replace(
    state,
    step=state.step + 1,
    params=params,
    opt_state=keep(opt_state, state.opt_state),
    prediction=zeta0_hat,
    skipped=state.skipped + ~finite,
    average=_averaged(method, state.average, params["student"]),
  )
  new = sharding.lay_tree(new)
  lr = method.rate(state.step - state.skipped)
  metrics = Metrics(loss, grad_norm, lr, t, state.tau, draws.key_view, new.skipped)
  return new, metrics


def _averaged(method: Method, average: Params, student: Params) -> Params:
  move = lambda old, new: old + (1 - method.average) * (new - old)
  return jax.tree.map(move, average, student) if method.average else {}


@functools.partial(jax.jit, static_argnames=("method", "most"), donate_argnames="state")
def distill_steps(
  method: Method,
  state: DistillState,
  teacher: Teacher,
  cond: Any,
  key: Key[Array, ""],
  count: Int[Array, ""],
  mask: Float[Array, "N h w 1"] | None = None,
  *,
  most: int,
) -> tuple[DistillState, Metrics]:
  """`count` iterations on the device, at most `most`; their metrics in the first rows.

  The count is traced, so that a run compiles this once however its iterations are divided.
  """
  views = len(state.latents) - 1

  def body(i, carry):
    state, rows = carry
    drawn = draws(method, key, state.step, state.tau, views)
    state, metrics = distill_step(method, state, teacher, cond, drawn, mask)
    return state, jax.tree.map(lambda row, value: row.at[i].set(value), rows, metrics)

  blank = Metrics(*(jnp.zeros(most) for _ in range(3)), *(jnp.zeros(most, int) for _ in range(4)))
  state, metrics = jax.lax.fori_loop(0, count, body, (state, blank))
  return sharding.lay_tree(state), metrics


@functools.partial(jax.jit, static_argnames=("method", "mesh", "most"), donate_argnames="states")
def distill_edits(
  method: Method,
  mesh: Mesh,
  states: DistillState,
  teacher: Teacher,
  conds: Any,
  keys: Key[Array, " E"],
  count: Int[Array, ""],
  masks: Float[Array, "E N h w 1"] | None = None,
  *,
  most: int,
) -> tuple[DistillState, Metrics]:
  """`distill_steps` of E edits at once, each on its own chips of the mesh, its first axis.

  All arrays have an axis of edits in front, but for the networks in the teacher, which all edits
  share. Every edit comes out as it would alone.
  """

  def one(state, teacher, cond, key, mask, count):
    return distill_steps(method, state, teacher, cond, key, count, mask, most=most)

  return for_each_edit(mesh, one, states, teacher, conds, keys, masks, shared=(count,))


@functools.partial(jax.jit, static_argnames=("method", "mesh"), donate_argnames="states")
def student_steps(
  method: Method,
  mesh: Mesh,
  states: DistillState,
  conds: Any,
  taus_next: Int[Array, " E"],
  noises: Float[Array, "E T h w 4"] | Float[Array, " E"],
  chosen: Bool[Array, " E"],
) -> DistillState:
  """`student_step` of the chosen ones of E edits; the others stay as they are."""

  def one(state, cond, tau_next, noise, wanted):
    new = student_step(method, state, cond, tau_next, noise)
    moved = {name: getattr(new, name) for name in ("latents", "prediction", "tau")}
    kept = {name: jnp.where(wanted, x, getattr(state, name)) for name, x in moved.items()}
    return sharding.lay_tree(dataclasses.replace(state, **kept))

  return for_each_edit(mesh, one, states, conds, taus_next, noises, chosen)


def for_each_edit(mesh: Mesh, function: Callable, *edits: Any, shared: tuple = ()) -> Any:
  """A function of one edit on each edit's own chips, over arguments with an axis of edits in front.

  Networks in them have no such axis. shared: arguments that all edits get.
  """
  each = P(sharding.EDIT)
  specs = jax.tree.map(lambda part: P() if is_network(part) else each, edits, is_leaf=is_network)

  def one(edits, shared):
    alone = jax.tree.map(lambda x: x if is_network(x) else x[0], edits, is_leaf=is_network)
    return jax.tree.map(lambda x: x[None], function(*alone, *shared))

  return jax.shard_map(
    one,
    mesh=mesh,
    in_specs=(specs, P()),
    out_specs=each,
    axis_names={sharding.EDIT},
    check_vma=False,
  )(edits, shared)


def is_network(part: Any) -> bool:
  """Whether a part of a pytree is a network, which edits share."""
  return isinstance(part, Network)


def sampling_weights(state: DistillState) -> Params:
  """The student's weights that take its own steps: the averaged ones where there are some."""
  return state.average or state.params["student"]


@functools.partial(jax.jit, static_argnames="method", donate_argnames="state")
def student_step(
  method: Method,
  state: DistillState,
  cond: Any,
  tau_next: Int[Array, ""],
  noise: Float[Array, "T h w 4"] | Float[Array, ""] | float = 0.0,
) -> DistillState:
  """One Euler step of zeta from tau to tau_next with the freshly updated student.

  zeta is not replaced on the clean frame here. noise: added to zeta first; the authors add an
  accidental one (diffusion.accidental_noise_scale), by default there is none.
  """
  sigma, sigma_next = (method.student.schedule.sigma(tau) for tau in (state.tau, tau_next))
  zeta = state.latents + noise
  weights = sampling_weights(state)
  zeta0_hat = method.student.predict(weights, cond, zeta, state.tau)
  new = dataclasses.replace(
    state,
    latents=diffusion.euler_step(zeta, zeta0_hat, sigma, sigma_next),
    prediction=zeta0_hat,
    tau=jnp.int32(tau_next),
  )
  return sharding.lay_tree(new)
