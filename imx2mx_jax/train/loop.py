"""The one loop: a state, a step compiled once, and what happens between calls to the device."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from imx2mx_jax import optim, sharding, terminal
from imx2mx_jax.errors import ConfigError, UserError
from imx2mx_jax.shapes import Array, Float, Int, Key, Params
from imx2mx_jax.train import data, export, losses, networks, samples
from imx2mx_jax.train.folder import TrainFolder
from imx2mx_jax.train.settings import TrainConfig

_LARGE = 1 << 20
"""Elements from which on a parameter is divided among the devices."""

LOSSES = {
  "vae": losses.autoencoder,
  "clip": losses.contrastive,
  "teacher": losses.instruct_pix2pix,
  "controlnet": losses.controlnet,
  "student": losses.multi_view,
}
"""{model: its loss}."""


@flax.struct.dataclass
class TrainState:
  """All that changes. step: steps done. ema: the averaged params. skipped: updates left out."""

  step: Int[Array, ""]
  params: Params
  ema: Params
  opt_state: optax.OptState
  skipped: Int[Array, ""]


@flax.struct.dataclass
class Given:
  """What a step reads besides. frozen: what does not learn. masks: see networks.Parts."""

  frozen: Params
  masks: Params
  table: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
  """What never changes. loss: of (networks, batch, key). ema: decay of the averaged params.

  remat: see Network.
  optimizer: at a learning rate of 1, by which its updates are then multiplied: so one compiled
  program serves trainings of any length.
  """

  loss: Callable[[losses.Networks, losses.Batch, Key[Array, ""]], losses.Loss]
  graphdefs: Mapping[str, nnx.GraphDef]
  source: data.Source
  optimizer: optax.GradientTransformation
  ema: float
  mesh: Mesh
  remat: bool = False


def initial_state(program: Program, params: Params) -> TrainState:
  """The state before the first step."""
  copies = [jax.tree.map(jnp.copy, params) for _ in range(2)]  # their buffers are given away
  return TrainState(jnp.int32(0), *copies, program.optimizer.init(params), jnp.int32(0))


def train_step(
  program: Program,
  state: TrainState,
  given: Given,
  rows: Any,
  lr: Float[Array, ""],
  key: Key[Array, ""],
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
  """One step. key: the training's; everything random follows from it and the step's number."""
  for_batch, for_loss = jax.random.split(jax.random.fold_in(key, state.step))
  batch = program.source.batch(given.table, rows, for_batch)
  batch = jax.lax.with_sharding_constraint(batch, NamedSharding(program.mesh, P(sharding.DATA)))

  def loss_fn(params: Params) -> losses.Loss:
    nets = networks.assemble(program.graphdefs, params | given.frozen, remat=program.remat)
    return program.loss(nets, batch, for_loss)

  (loss, figures), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
  grads = _masked(grads, given.masks)
  updates, opt_state = program.optimizer.update(grads, state.opt_state, state.params)
  updates = jax.tree.map(lambda x: lr * x, updates)
  params = optax.apply_updates(state.params, _masked(updates, given.masks))
  decay = jnp.minimum(program.ema, (1 + state.step) / (10 + state.step))
  ema = jax.tree.map(lambda old, new: old + (1 - decay) * (new - old), state.ema, params)

  grad_norm = optim.gradient_norm(opt_state)
  finite = jnp.isfinite(grad_norm)
  keep = functools.partial(jax.tree.map, functools.partial(jnp.where, finite))
  new = TrainState(
    step=state.step + 1,
    params=keep(params, state.params),
    ema=keep(ema, state.ema),
    opt_state=keep(opt_state, state.opt_state),
    skipped=state.skipped + ~finite,
  )
  return new, {"loss": loss, "grad_norm": grad_norm, "lr": lr, **figures}


def train_steps(
  program: Program,
  state: TrainState,
  given: Given,
  rows: Any,
  rates: Float[Array, " count"],
  key: Key[Array, ""],
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
  """Steps on the device, one for each learning rate, and the means of their figures.

  rows: [count, B, ...] or None.
  """
  step = lambda state, x: train_step(program, state, given, *x, key)
  state, figures = jax.lax.scan(step, state, (rows, rates))
  return state, {name: x.mean() for name, x in figures.items()}


def _masked(tree: Params, masks: Params) -> Params:
  return tree | {path: tree[path] * mask for path, mask in masks.items()}


def shardings(mesh: Mesh, tree: Any) -> Any:
  """Where each array lies: on every device, or, if it is large, divided along its longest axis."""

  def place(leaf: Any) -> NamedSharding:
    divisible = [n if n % mesh.size == 0 else 0 for n in leaf.shape]
    if leaf.size < _LARGE or not any(divisible):
      return NamedSharding(mesh, P())
    axis = int(np.argmax(divisible))
    return NamedSharding(mesh, P(*[None] * axis, sharding.DATA))

  return jax.tree.map(place, tree)


def train(run: TrainConfig, stop: terminal.Stop) -> epath.Path:
  """Trains, or goes on where an earlier training stopped, and gives the folder.

  stop: once it has heard a signal, the state is saved and the training ends, resumable. Raises the
  UserErrors of everything that it reads and writes.
  """
  began = time.monotonic()
  if run.batch % jax.device_count():
    raise ConfigError(
      f"--config.batch={run.batch}: it must be a multiple of the {jax.device_count()} devices"
    )
  precision = None if run.dtype == "bfloat16" else run.dtype
  with (
    TrainFolder(run) as folder,
    terminal.Iterations() as progress,
    jax.default_matmul_precision(precision),
  ):
    parts = networks.load(run)
    source = data.open_source(run, parts.tokenizer)
    program, rate = make_program(run, parts, source), _rate(run)
    given = _placed(program.mesh, Given(parts.frozen, parts.masks, source.table))
    state = _state(program, parts, folder)
    folder.begin()
    key = _placed(program.mesh, jax.random.key(run.seed))
    step, skipped = int(state.step), int(state.skipped)
    progress.begin(step, run.steps)
    compiled = Compiled(program)
    sampler = samples.Sampler(run, program.graphdefs, source)
    for count, rows in data.prefetched(source, range(step, run.steps), run.log_every):
      started = time.monotonic()
      rates = _placed(program.mesh, rate(np.arange(step, step + count)))
      state, means = compiled(state, given, _rows(program.mesh, rows), rates, key)
      figures = {name: float(x) for name, x in means.items()}
      seconds = time.monotonic() - started
      step += count
      skipped, before = int(state.skipped), skipped
      if skipped - before == count:
        raise UserError(
          f"{folder.path}: no gradient was finite in the steps up to {step}; start anew with a "
          "smaller --config.optim.lr"
        )
      if _passes(run.sample_every, step, count) or (run.sample_every and step == run.steps):
        with sharding.on(program.mesh):
          sampled, pictures = sampler(state.ema | given.frozen, given.table)
        figures |= {f"sample_{name}": value for name, value in sampled.items()}
        if pictures is not None:
          folder.picture(step, pictures)
      folder.log(step, figures | {"skipped": skipped}, count * run.batch / seconds)
      progress.show(step, seconds, figures["loss"])
      late = run.minutes and time.monotonic() - began > 60 * run.minutes
      stopping = stop.heard or late
      if stopping or folder.due(step) or step == run.steps:
        averaged = state.ema | given.frozen
        sample_figures = lambda params=averaged: sampler(params, given.table)[0]
        with sharding.on(program.mesh):
          folder.export(
            functools.partial(export.write_models, run, parts, averaged, sample_figures)
          )
        folder.save(step, state)  # the last: a training that is saved to its end has its weights
      if stopping and step < run.steps:
        folder.settle()
        stop.obeyed = bool(stop.heard)
        print("stopped; the same command goes on from here")
        break
    folder.settle()
    return folder.path


def make_program(run: TrainConfig, parts: networks.Parts, source: data.Source) -> Program:
  """What the steps of this training have in common."""
  o = run.optim
  one = optim.LearningRate(1.0, 1.0, warmup=0, decay=0, start=1.0)
  moments = {"b1": o.b1, "b2": o.b2, "eps": o.eps, "weight_decay": o.weight_decay}
  return Program(
    functools.partial(LOSSES[run.model], settings=run.loss),
    parts.graphdefs,
    source,
    optim.optimizer(one, clip_norm=o.clip, muon=o.muon, **moments),
    o.ema,
    make_mesh(jax.devices()),
    run.remat,
  )


def make_mesh(devices: Sequence[Any]) -> Mesh:
  """All devices, among which the rows of a batch are divided."""
  auto = (jax.sharding.AxisType.Auto,)
  return jax.make_mesh((len(devices),), (sharding.DATA,), axis_types=auto, devices=devices)


def _rate(run: TrainConfig) -> optim.LearningRate:
  o = run.optim
  return optim.LearningRate.over(run.steps, peak=o.lr, final=o.final_lr, warmup=o.warmup)


class Compiled:
  """`train_steps`, compiled once for every count of steps; the state keeps its places."""

  def __init__(self, program: Program):
    self._program = program
    self._calls: dict[int, Any] = {}

  def __call__(
    self,
    state: TrainState,
    given: Given,
    rows: Any,
    rates: Float[Array, " count"],
    key: Key[Array, ""],
  ):
    count = len(rates)
    if count not in self._calls:
      places = jax.tree.map(lambda x: x.sharding, state)
      function = jax.jit(
        functools.partial(train_steps, self._program),
        donate_argnums=0,
        out_shardings=(places, NamedSharding(self._program.mesh, P())),
      )
      with sharding.on(self._program.mesh):
        self._calls[count] = function.lower(state, given, rows, rates, key).compile()
    return self._calls[count](state, given, rows, rates, key)


def _passes(every: int, step: int, count: int) -> bool:
  return bool(every) and step // every > (step - count) // every


def _placed(mesh: Mesh, tree: Any) -> Any:
  return jax.device_put(tree, shardings(mesh, tree))


def _rows(mesh: Mesh, rows: Any) -> Any:
  """The host's rows on the devices, each with its share of the batch (the second axis)."""
  place = NamedSharding(mesh, P(None, sharding.DATA))
  return jax.device_put(rows, place)


def _state(program: Program, parts: networks.Parts, folder: TrainFolder) -> TrainState:
  make = functools.partial(initial_state, program)
  abstract = jax.eval_shape(make, parts.params)
  places = shardings(program.mesh, abstract)
  wanted = jax.tree.map(
    lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
    abstract,
    places,
  )
  saved = folder.last_state(wanted)
  if saved is not None:
    print(f"going on after {folder.step} steps", flush=True)
    return saved
  return jax.jit(make, out_shardings=places)(parts.params)
