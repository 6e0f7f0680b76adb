"""Where the iterations of an edit are computed: on all chips, or on some beside other edits.

An edit takes its seat with `begin`, says what it needs next with `ask`, and has it done when
`answer` gives something. `Alone` is the seat of an edit by itself. `Together` has several: it works
when all edits that sit there have asked, for all of them in one program, each on its own chips, and
each comes out as it would alone.
"""

import dataclasses
import time
from typing import Any, Protocol, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from imx2mx_jax import distill, flops, sharding
from imx2mx_jax.distill import is_network
from imx2mx_jax.models.network import Network
from imx2mx_jax.shapes import Array, Float, Key, np
from imx2mx_jax.teachers import Teacher


@flax.struct.dataclass
class Task:
  """What the iterations of an edit read and never change.

  mask: where the teacher may change something, on its grid; None: everywhere. most: iterations in
  one call.
  """

  teacher: Teacher
  cond: Any
  key: Key[Array, ""]
  mask: Float[Array, "N h w 1"] | None
  method: distill.Method = flax.struct.field(pytree_node=False)
  most: int = flax.struct.field(pytree_node=False)


@dataclasses.dataclass(frozen=True)
class Iterations:
  """So many iterations are wanted; fewer may be done, and are asked for again."""

  count: int


@dataclasses.dataclass(frozen=True)
class Step:
  """The student's own step, as of distill.student_step."""

  tau_next: int
  noise: Float[Array, "T h w 4"] | float = 0.0


@dataclasses.dataclass(frozen=True)
class Done:
  """What was asked for is done. metrics: a value for each iteration; empty after a step."""

  seconds: float
  metrics: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


@runtime_checkable
class Place(Protocol):
  """A seat as an edit sees it. mesh: its chips."""

  mesh: Mesh

  def shared(self, name: str, network: Network) -> Network:
    """The network, or the same one that another edit at the table has given already."""

  def begin(self, task: Task, state: distill.DistillState) -> None:
    """Sits down. The state's buffers are taken over."""

  def trace(self) -> int:
    """Before the first iterations, when all have begun: the operations of one of this edit's."""

  def compile(self) -> int:
    """After `trace`: the bytes that each chip holds while it iterates; 0 where that is unknown."""

  def ask(self, wanted: Iterations | Step) -> None:
    """What is needed next."""

  def answer(self) -> Done | None:
    """None: other edits have to ask first."""

  def state(self) -> distill.DistillState:
    """As it is now; valid until the next answer."""

  def prediction(self) -> Float[np.ndarray, "T h w 4"]:
    """The last zeta0_hat."""

  def sound(self) -> bool:
    """Whether the edit can go on from its state. Its weights are finite always."""


class Alone:
  """The seat of an edit that has a mesh for itself."""

  def __init__(self, mesh: Mesh):
    self.mesh = mesh

  def shared(self, name: str, network: Network) -> Network:
    del name
    return network

  def begin(self, task: Task, state: distill.DistillState) -> None:
    self.task, self._state = (sharding.put(self.mesh, tree) for tree in (task, state))

  def trace(self) -> int:
    teacher, cond, key, mask = _inputs(self.task)
    args = (self.task.method, self._state, teacher, cond, key, jnp.int32(0), mask)
    with sharding.on(self.mesh):
      # JAX keeps what it has compiled: another edit of the same shapes gets the same program.
      self._traced = distill.distill_steps.trace(*args, most=self.task.most)
    return flops.of(self._traced.jaxpr.jaxpr)

  def compile(self) -> int:
    with sharding.on(self.mesh):
      self._steps = self._traced.lower().compile()
    return _held(self._steps)

  def ask(self, wanted: Iterations | Step) -> None:
    self._wanted = wanted

  def answer(self) -> Done:
    began = time.monotonic()
    teacher, cond, key, mask = _inputs(self.task)
    match self._wanted:
      case Iterations(count):
        state, rows = self._steps(self._state, teacher, cond, key, jnp.int32(count), mask)
        metrics = {name: np.asarray(row)[:count] for name, row in vars(rows).items()}
      case Step(tau_next, noise):
        with sharding.on(self.mesh):
          state = distill.student_step(
            self.task.method, self._state, cond, jnp.int32(tau_next), noise
          )
        metrics = {}
    self._state = state
    return Done(time.monotonic() - began, metrics)

  def state(self) -> distill.DistillState:
    return self._state

  def prediction(self) -> Float[np.ndarray, "T h w 4"]:
    return np.asarray(self._state.prediction)

  def sound(self) -> bool:
    return bool(jnp.isfinite(self._state.latents).all())


class Together:
  """The seats of edits that share a program, one for each row of a mesh.

  They must agree in their methods, in all shapes, and in the networks of their teachers. Whoever
  steps along the edits lets each of them go on in turn; one that has ended, well or not, `leave`s.
  Its chips then work for nothing, as those of a seat that nobody took.
  """

  def __init__(self, mesh: Mesh):
    self.mesh = mesh
    self.seats = [Seat(self, row) for row in range(mesh.shape[sharding.EDIT])]
    self._networks: dict[Any, Network] = {}
    self._states: distill.DistillState | None = None
    self._error: Exception | None = None
    self._flops = self._held = None

  def shared(self, name: Any, network: Network, *, everywhere: bool = False) -> Network:
    """everywhere: on all chips of the mesh."""
    if name not in self._networks:
      self._networks[name] = sharding.put(self.mesh, network) if everywhere else network
    return self._networks[name]

  def trace(self) -> int:
    if self._flops is None:
      self._gather()
      teacher, conds, keys, masks = _inputs(self._tasks)
      args = (self._method, self.mesh, self._states, teacher, conds, keys, jnp.int32(0), masks)
      with sharding.on(self.mesh):
        self._traced = distill.distill_edits.trace(*args, most=self._tasks.most)
      self._flops = flops.of(self._traced.jaxpr.jaxpr) // len(self.seats)
    return self._flops

  def compile(self) -> int:
    if self._held is None:
      with sharding.on(self.mesh):
        self._steps = self._traced.lower().compile()
      self._held = _held(self._steps)
    return self._held

  def work(self) -> None:
    """Does what has been asked for, if all have asked. What fails then, fails for all."""
    if self._error:
      raise self._error
    present = [seat for seat in self.seats if seat.present]
    if not all(seat.wanted for seat in present):
      return
    try:
      self._gather()
      # Where some edits went on from an earlier iteration, those that have come to a step take it
      # first; then all iterate as often as the first to arrive wants to: chips that share an edit
      # talk to each other, and no chip's program may take another way than the others'.
      steps = [seat for seat in present if isinstance(seat.wanted, Step)]
      self._step(steps) if steps else self._iterate(present)
    except Exception as error:
      self._error = error
      raise

  def _gather(self) -> None:
    """Once all have begun: their states and tasks, with an axis of edits in front."""
    if self._states is not None:
      return
    begun = [seat for seat in self.seats if seat.task]
    self._method = begun[0].task.method
    self._states = _states(self.mesh, [seat.parts for seat in self.seats], begun[0].shapes)
    for seat in begun:
      seat.parts = None
    self._tasks = _tasks(self.mesh, [seat.task or begun[0].task for seat in self.seats])

  def _iterate(self, seats: list["Seat"]) -> None:
    began, count = time.monotonic(), min(seat.wanted.count for seat in seats)
    teacher, conds, keys, masks = _inputs(self._tasks)
    self._states, rows = self._steps(self._states, teacher, conds, keys, jnp.int32(count), masks)
    rows = jax.device_get(rows)
    seconds = time.monotonic() - began
    for seat in seats:
      metrics = {name: row[seat.row, :count] for name, row in vars(rows).items()}
      seat.take(Done(seconds, metrics))

  def _step(self, seats: list["Seat"]) -> None:
    began, wanted = time.monotonic(), {seat.row: seat.wanted for seat in seats}
    idle = Step(0, np.zeros_like(seats[0].wanted.noise))
    rows = [wanted.get(seat.row, idle) for seat in self.seats]
    taus = jnp.array([row.tau_next for row in rows], jnp.int32)
    noises = jnp.stack([jnp.asarray(row.noise, jnp.float32) for row in rows])
    chosen = jnp.array([seat.row in wanted for seat in self.seats])
    with sharding.on(self.mesh):
      self._states = distill.student_steps(
        self._method, self.mesh, self._states, self._tasks.cond, taus, noises, chosen
      )
    for seat in seats:
      seat.take(Done(time.monotonic() - began))

  def of_row(self, row: int, part: Any = lambda states: states) -> Any:
    """An edit's part of the states, on the host."""
    return jax.tree.map(lambda x: _row(x, row), part(self._states))


class Seat:
  """A seat among others.

  wanted: what has been asked for and not been done. present: whether somebody sits here.
  """

  def __init__(self, table: Together, row: int):
    self._table, self.row = table, row
    self.mesh = sharding.row(table.mesh, row)
    self.task: Task | None = None
    self.parts: list[list[Array]] | None = None
    self.present = False
    self.wanted: Iterations | Step | None = None
    self._done: Done | None = None

  def shared(self, name: str, network: Network) -> Network:
    return self._table.shared(name, network)

  def begin(self, task: Task, state: distill.DistillState) -> None:
    parts, structure = jax.tree.flatten(task.teacher, is_leaf=is_network)
    for place, part in enumerate(parts):
      if is_network(part):
        parts[place] = self._table.shared(place, part, everywhere=True)
    self.task = task.replace(teacher=jax.tree.unflatten(structure, parts))
    state = sharding.put(self.mesh, state)
    self.shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    self.parts = [_taken_over(leaf) for leaf in jax.tree.leaves(state)]
    self.present = True

  def leave(self) -> None:
    """Others need not wait for this seat any more."""
    self.present = False

  def trace(self) -> int:
    return self._table.trace()

  def compile(self) -> int:
    return self._table.compile()

  def ask(self, wanted: Iterations | Step) -> None:
    self.wanted = wanted

  def take(self, done: Done) -> None:
    """What was wanted is done."""
    self.wanted, self._done = None, done

  def answer(self) -> Done | None:
    if self._done is None:
      self._table.work()
    done, self._done = self._done, None
    return done

  def state(self) -> distill.DistillState:
    return self._table.of_row(self.row)

  def prediction(self) -> Float[np.ndarray, "T h w 4"]:
    return self._table.of_row(self.row, lambda states: states.prediction)

  def sound(self) -> bool:
    return bool(np.isfinite(self._table.of_row(self.row, lambda states: states.latents)).all())


def _inputs(task: Task) -> tuple[Any, Any, Any, Any]:
  return task.teacher, task.cond, task.key, task.mask


def _held(steps: jax.stages.Compiled) -> int:
  """Bytes on each chip: arguments, which the results take over, and all that is between them."""
  memory = steps.memory_analysis()
  if memory is None:
    return 0
  results = memory.output_size_in_bytes - memory.alias_size_in_bytes
  return memory.argument_size_in_bytes + memory.temp_size_in_bytes + results


# --- rows of a mesh --------------------------------------------------------------------------


def _taken_over(leaf: Array) -> list[Array]:
  """What each chip has of an edit's array, with an axis in front; the array itself is gone.

  The way leads over the host, so that no chip ever holds two states, and nothing is compiled.
  """
  held = [(np.array(shard.data)[None], shard.device) for shard in leaf.addressable_shards]
  leaf.delete()
  return [jax.device_put(part, device) for part, device in held]


def _states(mesh: Mesh, rows: list[list[list[Array]] | None], shapes: Any) -> Any:
  """The rows' parts as one tree on the mesh; zeros where nobody sits."""
  edits = len(rows)
  stacked = jax.tree.map(lambda x: jax.ShapeDtypeStruct((edits, *x.shape), x.dtype), shapes)
  places = sharding.of_tree(mesh, stacked, edits=True)
  leaves, structure = jax.tree.flatten(stacked)
  arrays = []
  for i, (leaf, place) in enumerate(zip(leaves, jax.tree.leaves(places), strict=True)):
    zeros = np.zeros(place.shard_shape(leaf.shape), leaf.dtype)
    idle = lambda row, zeros=zeros: [jax.device_put(zeros, chip) for chip in mesh.devices[row]]
    parts = [part for row, own in enumerate(rows) for part in (own[i] if own else idle(row))]
    arrays.append(jax.make_array_from_single_device_arrays(leaf.shape, place, parts))
  return jax.tree.unflatten(structure, arrays)


def _tasks(mesh: Mesh, tasks: list[Task]) -> Task:
  """One task for all: networks as they are, everything else with an axis of edits in front."""

  def together(*parts):
    if is_network(parts[0]):
      return parts[0]
    stacked = jnp.stack([jax.device_put(part, jax.devices()[0]) for part in parts])
    return jax.device_put(stacked, sharding.of_tree(mesh, stacked, edits=True))

  return jax.tree.map(together, *tasks, is_leaf=is_network)


def _row(x: Array, row: int) -> np.ndarray:
  """One edit's part of an array, put together from the chips of its row."""
  part = np.empty(x.shape[1:], x.dtype)
  for shard in x.addressable_shards:
    if shard.index[0].start == row and shard.replica_id == 0:
      part[shard.index[1:]] = np.asarray(shard.data)[0]
  return part
