"""One whole edit: prepare, loop over the two compiled functions, decode. Writes nothing."""

import dataclasses
import functools
import random
import time
from collections.abc import Callable, Generator, Iterator, Sequence

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from imx2mx_jax import (
  cameras,
  couplings,
  diffusion,
  distill,
  editors,
  masks,
  optim,
  pictures,
  seats,
  sharding,
  students,
  teachers,
  weights,
)
from imx2mx_jax import tokenizer as tokens
from imx2mx_jax.config import RunConfig
from imx2mx_jax.errors import ConfigError, DivergedError, WeightsError
from imx2mx_jax.models.network import Network
from imx2mx_jax.models.vae import VaeShape
from imx2mx_jax.scene import Scene, view_of
from imx2mx_jax.shapes import Array, Float, Int, Key, Params, UInt8, np


@dataclasses.dataclass(frozen=True)
class Models:
  """The networks of a run, and the tokens of its instruction and of the empty text.

  controlnet: None for other teachers. student, student_vae, image_encoder: None where the teacher
  works alone.
  """

  ids: Int[np.ndarray, "2 L"]
  unet: Network
  vae: Network
  text_encoder: Network
  controlnet: Network | None = None
  student: Network | None = None
  student_vae: Network | None = None
  image_encoder: Network | None = None


@dataclasses.dataclass(frozen=True)
class Prepared:
  """The run is about to begin at iteration `resumed_at` of `total`.

  reference: the edited reference view. saved: what spares a resumed run the reference edit.
  """

  reference: UInt8[np.ndarray, "H W 3"]
  saved: dict[str, np.ndarray]
  total: int
  resumed_at: int


@dataclasses.dataclass(frozen=True)
class Waiting:
  """Edits that share a program may go on to where they are waiting too; then this one can."""


@dataclasses.dataclass(frozen=True)
class Traced:
  """The iterations are about to be compiled. flops: of one of them, on all chips together."""

  flops: int


@dataclasses.dataclass(frozen=True)
class Compiled:
  """The iterations are compiled, or what was compiled for them before is at hand, in `seconds`.

  held: bytes on each chip while they run; 0 where the compiler does not say.
  """

  seconds: float
  held: int


@dataclasses.dataclass(frozen=True)
class Progress:
  """Iterations up to `step` are done, the last ones in `seconds`; metrics has a value for each.

  state, sound: give the state, and whether the run can go on from it, until the next event is asked
  for; its buffers are then given to the device again. skipped: how many updates in a row, the last
  one among them, were left out as not finite.
  """

  step: int
  state: Callable[[], distill.DistillState]
  sound: Callable[[], bool]
  metrics: dict[str, np.ndarray]
  seconds: float
  total: int
  skipped: int


@dataclasses.dataclass(frozen=True)
class Snapshot:
  """The views as the student predicts them at student timestep tau."""

  step: int
  tau: int
  images: UInt8[np.ndarray, "N H W 3"]


@dataclasses.dataclass(frozen=True)
class Finished:
  """The edited views. params: of the personalised student; empty where nothing was distilled."""

  images: UInt8[np.ndarray, "N H W 3"]
  params: Params


Plan = list[tuple[int, int]]
Event = Prepared | Waiting | Traced | Compiled | Progress | Snapshot | Finished
Saved = tuple[dict[str, np.ndarray], distill.DistillState | None]


def load_models(
  run: RunConfig,
  load: Callable[..., dict[str, Network]] = weights.load,
  mesh: Mesh | None = None,
) -> Models:
  """Every network that the run needs, and its instruction in tokens.

  What is frozen and used at every iteration is held in the dtype of the arithmetic. load: what
  reads a folder, for example weights.keeping(). mesh: the student's chips; None: those of an edit
  by itself. Raises what `check_models` raises.
  """
  check_models(run)
  ids, dtype = instruction_ids(run), jnp.dtype(run.dtype)
  models = Models(ids, **load(run.teacher.weights, "teacher", dtype=dtype))
  models = dataclasses.replace(models, unet=models.unet.held_in(dtype))
  if run.teacher.kind == "controlnet":
    controlnet = load(run.teacher.controlnet, "controlnet", dtype=dtype)["controlnet"]
    models = dataclasses.replace(models, controlnet=controlnet.held_in(dtype))
  if run.teacher_alone:
    return models
  s, divide = run.student, functools.partial(sharding.put, mesh or make_mesh(run))
  return dataclasses.replace(
    models,
    student=load(s.weights, "student", dtype=dtype, place=divide)["seva"],
    student_vae=load(s.vae, "student_vae", dtype=dtype)["vae"],
    image_encoder=load(s.image_encoder, "image_encoder", dtype=dtype)["vision"],
  )


def check_models(run: RunConfig) -> None:
  """Whether the run's models are there and fit together, from their descriptions alone.

  Raises WeightsError for a folder that is not the right model or that does not fit the others,
  ConfigError for an instruction that is empty or too long and for sizes that do not divide.
  """
  _check_teacher(run)
  if not run.teacher_alone:
    _check_student(run)
  instruction_ids(run)


def models_of(run: RunConfig) -> dict[str, str]:
  """{kind: converted folder} of the models that `load_models` reads."""
  found = {"teacher": run.teacher.weights}
  if run.teacher.kind == "controlnet":
    found["controlnet"] = run.teacher.controlnet
  if run.teacher_alone:
    return found
  s = run.student
  return found | {"student": s.weights, "student_vae": s.vae, "image_encoder": s.image_encoder}


def total_iterations(run: RunConfig) -> int:
  """Updates of the student that the whole run makes."""
  return _total(_plan(run))


def instruction_ids(run: RunConfig) -> Int[np.ndarray, "2 L"]:
  """Tokens of the instruction and of the empty text: what tells one edit's Models from another's.

  Raises ConfigError for an instruction that is empty or too long, WeightsError for no tokenizer.
  """
  tokenizer = tokens.load(weights.tokenizer_of(run.teacher.weights))
  return np.concatenate(
    [tokens.encode_instruction(tokenizer, run.instruction), tokens.encode(tokenizer, [""])]
  )


def _check_teacher(run: RunConfig) -> None:
  """Whether the teacher is of its kind and its size divides, from its description alone."""
  editors.check(run)
  teacher = weights.read_info(run.teacher.weights, "teacher").networks
  unet, text = teacher["unet"].shape, teacher["text_encoder"].shape
  if unet.context_width != text.width:
    raise WeightsError(
      f"{run.teacher.weights}: its UNet reads texts of width {unet.context_width} and its text "
      f"encoder writes {text.width}; convert both from one release"
    )
  _check_size("teacher", run.teacher.hw, teacher["vae"].shape, 0)


def _check_student(run: RunConfig) -> None:
  """Whether the student and its encoders fit together, from their descriptions alone."""
  student = weights.read_info(run.student.weights, "student").networks["seva"].shape
  vae = weights.read_info(run.student.vae, "student_vae").networks["vae"].shape
  encoder = weights.read_info(run.student.image_encoder, "image_encoder").networks["vision"].shape
  if student.context_width != encoder.embed_width:
    raise WeightsError(
      f"{run.student.image_encoder}: its embeddings have width {encoder.embed_width} and the "
      f"student {run.student.weights} reads {student.context_width}; convert the encoder that the "
      "student was trained with"
    )
  _check_size("student", run.student.hw, vae, len(student.channel_mult) - 1)


def _check_size(group: str, hw: tuple[int, int], vae: VaeShape, levels: int) -> None:
  """levels: how often the network halves the latents."""
  multiple = vae.cell * 2**levels
  for field, side in zip(("size", "width"), hw, strict=True):
    if side % multiple:
      nearest = max(1, round(side / multiple)) * multiple
      raise ConfigError(
        f"--config.{group}.{field}={side}: it must be a multiple of {multiple}, for example "
        f"{nearest}"
      )


def edit(
  run: RunConfig,
  scene: Scene,
  models: Models,
  saved: Saved | None,
  seat: seats.Place | None = None,
) -> Iterator[Event]:
  """Edits a scene, event by event.

  saved: what an interrupted run of the same settings had: `Prepared.saved` and its last state (or
  None before the first one). The result is the same as if it had not been interrupted. seat: where
  the iterations are computed; None: by themselves.
  """
  seat = seat or seats.Alone(make_mesh(run))
  arrays, state = saved or ({}, None)
  del saved
  teacher = _teacher(run, scene, models)
  if run.teacher_alone:
    edited = _sample_views(teacher, run, scene, models)
    images = _result(run, scene, models.vae, edited)
    yield Prepared(images[reference_view(run, scene)], {}, total=0, resumed_at=0)
    yield Finished(images, {})
    return

  reference = arrays.get("reference")
  if reference is None:
    reference = _reference(run, scene, models)
  began = {"reference": pictures.to_uint8(reference), "saved": {"reference": reference}}
  method, plan = _method(run, models), _plan(run)
  cond = _condition(run, scene, models, reference)
  if state is None:
    zeta0 = _edits(run, scene, models, teacher, reference) if run.method == "sdedit" else None
    state = _first_state(run, method, models, len(scene.names) + 1, zeta0, seat.mesh)
  mask = None if scene.masks is None else masks.on_grid(scene.masks, method.grid)
  task = seats.Task(teacher, cond, _keys(run)["iterations"], mask, method, run.log_every)
  vae = seat.shared("student_vae", models.student_vae)
  by_teacher = run.output.decoder == "teacher" or run.output.polish
  teacher_vae = seat.shared("vae", models.vae) if by_teacher else None
  # From here on the encoders are not needed; the caller lets go of them too.
  del models, teacher, cond
  step, tau = int(state.step), int(state.tau)
  seat.begin(task, state)
  del task, state
  loop = _Loop(run, scene, method, plan, seat, vae)
  yield Prepared(**began, total=_total(plan), resumed_at=step)

  if run.method == "coupled":
    zeta0 = np.asarray(_coupled(loop, seat))
  else:
    yield from _distill(loop, step, tau)
    zeta0 = yield from _last_prediction(loop)
  state = seat.state()
  if teacher_vae is not None:
    z0 = distill.align(method, jax.device_get(state.params["mapping"]), zeta0)
    images = _result(run, scene, teacher_vae, _polished(loop, seat, z0))
  else:
    images = _result(run, scene, vae, zeta0[1:])
  yield Finished(images, distill.sampling_weights(state) if _total(plan) else {})


@dataclasses.dataclass(frozen=True)
class _Loop:
  """What the loop works with and never changes.

  vae: the student's.
  """

  run: RunConfig
  scene: Scene
  method: distill.Method
  plan: Plan
  seat: seats.Place
  vae: Network


def _distill(
  loop: _Loop, step: int, tau: int
) -> Generator[Waiting | Traced | Compiled | Progress | Snapshot, None, None]:
  """Some iterations at each student timestep, then an Euler step to the next one.

  step, tau: where the run begins or goes on.
  """
  run, plan, seat = loop.run, loop.plan, loop.seat
  total, end, skipped = _total(plan), 0, 0
  if step < total:
    yield Waiting()
    began = time.monotonic()
    yield Traced(seat.trace())
    held = seat.compile()
    yield Compiled(time.monotonic() - began, held)

  for here, (there, iterations) in enumerate(plan):
    end += iterations
    if there > tau:
      continue  # done before the run was interrupted
    while step < end:
      done = yield from _asked(seat, seats.Iterations(min(run.log_every, end - step)))
      count = len(done.metrics["loss"])
      step += count
      skipped = _skipped_at_the_end(skipped, done.metrics["grad_norm"])
      yield Progress(step, seat.state, seat.sound, done.metrics, done.seconds, total, skipped)
      if run.image_every and step // run.image_every > (step - count) // run.image_every:
        images = _decode(loop.vae, seat.prediction()[1:])
        yield Snapshot(step, there, _outside_kept(run, loop.scene, images))
    if here + 1 < len(plan):
      yield from _stepped(loop, there, plan[here + 1][0])


def _asked(
  seat: seats.Place, wanted: seats.Iterations | seats.Step
) -> Generator[Waiting, None, seats.Done]:
  """What was wanted, once it is done."""
  seat.ask(wanted)
  while True:
    yield Waiting()
    if done := seat.answer():
      return done


def _stepped(loop: _Loop, tau: int, tau_next: int) -> Generator[Waiting, None, None]:
  noise = 0.0
  if _authors(loop.run):
    noise = _accidental_noise(loop.run, loop.method, loop.seat.prediction().shape, tau)
  yield from _asked(loop.seat, seats.Step(tau_next, noise))


def _coupled(loop: _Loop, seat: seats.Alone) -> Float[Array, "T h w 4"]:
  """What the student comes to where the teacher is its partner all the way down."""
  taus, state, task = tuple(tau for tau, _ in loop.plan), seat.state(), seat.task
  student, pull = state.params["student"], loop.run.couple.pull
  levels = {"taus": taus, "pull": pull}
  with sharding.on(seat.mesh):
    return couplings.coupled(
      loop.method, student, task.teacher, task.cond, state.latents, task.key, **levels
    )


def _polished(
  loop: _Loop, seat: seats.Alone, z0: Float[Array, "N h w 4"]
) -> Float[Array, "N h w 4"]:
  """The views after the teacher has gone over them, where the run asks for that."""
  output, teacher = loop.run.output, seat.task.teacher
  ts = diffusion.teacher_timesteps(output.polish, output.polish_steps)
  if not ts:
    return z0
  key = jax.random.fold_in(seat.task.key, _total(loop.plan))  # after all iterations
  with sharding.on(seat.mesh):
    return couplings.polished(teacher, z0, key, ts=ts, cross_view=loop.method.cross_view)


def _skipped_at_the_end(before: int, norms: Float[np.ndarray, " count"]) -> int:
  """Updates in a row that were left out. before: likewise, of the calls before this one."""
  finite = np.isfinite(norms)
  return int(np.argmax(finite[::-1])) if finite.any() else before + len(finite)


def abstract_state(
  run: RunConfig, views: int, models: Models, mesh: Mesh | None = None
) -> distill.DistillState:
  """Shapes and dtypes of the state of a run over so many views, to restore a saved one into.

  models: as loaded, or as `weights.described` gives them. mesh: as for `load_models`.
  """
  method = _method(run, models)
  begin = lambda student: _initial_state(
    run, method, dataclasses.replace(models, student=student), views + 1
  )
  state = jax.eval_shape(begin, models.student)
  mesh = mesh or make_mesh(run)
  if sharding.is_default(mesh):
    return state
  place = lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)
  return jax.tree.map(place, state, sharding.of_tree(mesh, state))


def preview(
  run: RunConfig,
  scene: Scene,
  models: Models,
  text_scales: Sequence[float],
  image_scales: Sequence[float],
) -> UInt8[np.ndarray, "rows columns H W 3"]:
  """The reference view edited in 2D at every pair of guidance scales, all with the same noise.

  Rows have text_scales, columns image_scales.
  """
  teacher = _of_reference(run, scene, models)
  scaled = [
    dataclasses.replace(teacher, text_scale=jnp.float32(t), image_scale=jnp.float32(i))
    for t in text_scales
    for i in image_scales
  ]
  edited = [_sample(teacher, run, models, 1) for teacher in scaled]
  images = _decode(models.vae, jnp.concatenate(edited))
  return images.reshape(len(text_scales), len(image_scales), *images.shape[1:])


# --- what the loop stands on -----------------------------------------------------------------


def make_mesh(run: RunConfig) -> Mesh:
  """The devices that an edit by itself has: all of the mesh. Raises as `mesh_of_edits` does."""
  whole = mesh_of_edits(run)
  return sharding.make_mesh(1, whole.size, whole.devices.ravel().tolist())


def mesh_of_edits(run: RunConfig) -> Mesh:
  """This machine's devices in rows, each for an edit. Raises ConfigError for more than it has."""
  if jax.process_count() > 1:  # in which Orbax saves nothing that belongs to one host alone
    raise ConfigError(
      f"JAX takes {jax.process_count()} processes for one machine, and an edit uses the devices of "
      "one; start each host by itself: README.md, Recipes, A pod slice"
    )
  edits, chips = run.mesh.edit, run.mesh.fsdp
  if edits == chips == -1:
    chips = 1
  try:
    return sharding.make_mesh(edits, chips)
  except ValueError as error:
    raise ConfigError(
      f"--config.mesh.edit={edits}, --config.mesh.fsdp={chips}: they want {error}"
    ) from error


def _authors(run: RunConfig) -> bool:
  return run.compat == "authors"


def _keys(run: RunConfig) -> dict[str, Key[Array, ""]]:
  names = ("reference", "latents", "iterations", "euler")
  return dict(zip(names, jax.random.split(jax.random.key(run.seed), len(names)), strict=True))


def _plan(run: RunConfig) -> Plan:
  """Every student timestep, from the noisiest, and the iterations that it gets."""
  d = run.distill
  begin = round(d.sdedit * d.t_max) if run.method == "sdedit" else d.t_max
  taus = diffusion.student_timesteps(begin, min(d.t_min, begin), d.dt)
  if run.method != "distill":
    return [(tau, 0) for tau in taus]
  counts = diffusion.iterations_per_timestep(
    taus, d.iterations_first, d.iterations, authors=_authors(run)
  )
  return list(zip(taus, counts, strict=True))


_NO_MOMENTS = optax.identity()  # where nothing is trained


def _total(plan: Plan) -> int:
  return sum(iterations for _, iterations in plan)


def _method(run: RunConfig, models: Models) -> distill.Method:
  d, o = run.distill, run.optim
  ramp = {"peak": o.lr, "final": o.final_lr, "warmup": o.warmup}
  if _authors(run):
    rate = optim.LearningRate.authors(d.dt, d.iterations, **ramp, start=o.min_lr)
  else:
    rate = optim.LearningRate.over(_total(_plan(run)), **ramp)
  moments = {"b1": o.b1, "b2": o.b2, "eps": o.eps, "weight_decay": o.weight_decay}
  optimizer = optim.optimizer(
    rate, clip_norm=o.clip, **moments, authors=_authors(run), memory=run.memory
  )
  if run.method != "distill":
    optimizer = _NO_MOMENTS
  return distill.Method(
    students.Seva(models.student.graphdef, remat=run.memory != "default"),
    rate,
    optimizer,
    models.vae.module.shape.grid(run.teacher.hw),
    teacher_t=d.teacher_t,
    teacher_t_highest=d.upper,
    teacher_t_shape_factor=d.shape_factor,
    teacher_t_fall=d.fall,
    cross_view=run.teacher.cross_view,
    unit=d.unit,
    average=d.average,
    authors=_authors(run),
  )


def _first_state(
  run: RunConfig,
  method: distill.Method,
  models: Models,
  frames: int,
  zeta0: Float[Array, "T h w 4"] | None,
  mesh: Mesh,
) -> distill.DistillState:
  """The initial state on a mesh, whole on no chip at any moment."""
  begin = lambda student: _initial_state(
    run, method, dataclasses.replace(models, student=student), frames, zeta0
  )
  if sharding.is_default(mesh):
    return begin(models.student)
  places = sharding.of_tree(mesh, jax.eval_shape(begin, models.student))
  return jax.jit(begin, out_shardings=places)(models.student)


def _initial_state(
  run: RunConfig,
  method: distill.Method,
  models: Models,
  frames: int,
  zeta0: Float[Array, "T h w 4"] | None = None,
) -> distill.DistillState:
  """zeta0: what the noise lies on, where it is not alone."""
  shape = (frames, *models.student_vae.module.shape.grid(run.student.hw), 4)
  noise = jax.random.normal(_keys(run)["latents"], shape)
  mapping = distill.identity_mapping() if run.distill.mapping == "learned" else {}
  # The state's buffers are given away at each call, the models' are not.
  params = jax.tree.map(jnp.copy, models.student.params)
  (begin, _), *_ = _plan(run)
  if zeta0 is not None:
    return distill.init_from(method, params, zeta0, noise, begin)
  return distill.init(method, params, mapping, noise, begin)


def _teacher(run: RunConfig, scene: Scene, models: Models) -> teachers.Teacher:
  images = pictures.teacher_source(scene.images, run.teacher.hw, authors=_authors(run))
  return editors.make(run, models, scene, range(len(images)), images)


def reference_view(run: RunConfig, scene: Scene) -> int:
  """Which view is the reference."""
  return view_of(scene, reference_frame(run, scene.frames))


def reference_frame(run: RunConfig, frames: Sequence[int]) -> int | str:
  """The reference's frame: the one named, or one of those edited, drawn from the seed."""
  if run.scene.reference != "":
    return run.scene.reference
  return random.Random(run.seed).choice(run.scene.frames or frames)


def _of_reference(run: RunConfig, scene: Scene, models: Models) -> teachers.Teacher:
  """The teacher with the reference view alone, as its own sampling gets it."""
  view = reference_view(run, scene)
  image = pictures.edit_source(scene.images[view], run.teacher.hw, authors=_authors(run))
  return editors.make(run, models, scene, [view], image[None])


def _sample(
  teacher: teachers.Teacher,
  run: RunConfig,
  models: Models,
  views: int,
  key_views: Int[Array, " S"] | None = None,
) -> Float[Array, "N h w 4"]:
  """The teacher's views edited in 2D. key_views: as of teachers.edit_views."""
  shape = (run.teacher.steps + 1, views, *models.vae.module.shape.grid(run.teacher.hw), 4)
  noise = jax.random.normal(_keys(run)["reference"], shape)
  return jax.jit(teachers.edit_views)(teacher, noise[0], noise[1:], key_views)[-1]


def _sample_views(
  teacher: teachers.Teacher, run: RunConfig, scene: Scene, models: Models
) -> Float[Array, "N h w 4"]:
  """All views edited by the teacher alone, as the method says."""
  views = len(scene.names)
  if run.method == "collaborative":
    return _collaborative(teacher, run, scene, models)
  if run.method != "teacher_cross_view":
    return _sample(teacher, run, models, views)
  steps = run.teacher.steps
  key_views = jax.random.randint(_keys(run)["iterations"], (steps,), 0, views)
  return _sample(teacher, run, models, views, key_views)


def _collaborative(
  teacher: teachers.Teacher, run: RunConfig, scene: Scene, models: Models
) -> Float[Array, "N h w 4"]:
  """The photographs' latents, moved by the scores that the views share."""
  images = pictures.teacher_source(scene.images, run.teacher.hw, authors=_authors(run))
  modes = jax.jit(teachers.encode_sources)(models.vae, images)
  z0, key = modes * models.vae.module.shape.scaling_factor, _keys(run)["iterations"]
  steps = {"iterations": run.couple.iterations, "rate": run.couple.rate}
  bounds = {"lowest": run.distill.t_min, "highest": run.distill.upper}
  return couplings.collaborative(teacher, z0, key, **steps, **bounds)


def _reference(run: RunConfig, scene: Scene, models: Models) -> Float[np.ndarray, "H W 3"]:
  """The picture that the student is conditioned on, at its size: the reference view, edited."""
  if run.distill.reference == "source":
    return scene.images[reference_view(run, scene)]
  latents = _sample(_of_reference(run, scene, models), run, models, 1)
  edited = jax.jit(teachers.decode)(models.vae, latents)[0]
  edited = pictures.enlarge_reference(edited, run.student.hw, authors=_authors(run))
  if scene.masks is None:
    return np.asarray(edited)
  view = [reference_view(run, scene)]
  own, new = (pictures.to_uint8(images) for images in (scene.images[view], edited[None]))
  return pictures.from_8_bits(masks.composite(own, new, scene.masks[view]))[0]


def _edits(
  run: RunConfig,
  scene: Scene,
  models: Models,
  teacher: teachers.Teacher,
  reference: Float[np.ndarray, "H W 3"],
) -> Float[Array, "T h w 4"]:
  """The student's latents of the views that the teacher edits one by one, the reference first."""
  view = reference_view(run, scene)
  latents = _sample(teacher, run, models, len(scene.names))
  decoded = jax.jit(teachers.decode)(models.vae, latents)
  enlarge = lambda x: pictures.enlarge_reference(x, run.student.hw, authors=_authors(run))
  edited = np.stack([enlarge(image) for image in decoded])
  edited[view] = reference
  order = list(cameras.student_order(len(edited), view))
  vae = models.student_vae
  modes = jax.jit(teachers.encode_sources)(vae, edited[order])
  return modes * vae.module.shape.scaling_factor


def _condition(
  run: RunConfig, scene: Scene, models: Models, reference: Float[np.ndarray, "H W 3"]
) -> students.SevaConditioning:
  order = list(cameras.student_order(len(scene.names), reference_view(run, scene)))
  c2w = cameras.normalise_cameras(scene.c2w[order], authors=_authors(run))
  K = scene.K[order]
  if _authors(run):
    K = cameras.divided_again(K, run.student.size)
  plucker = cameras.plucker(c2w, K, models.student_vae.module.shape.grid(run.student.hw))
  condition = jax.jit(students.condition)
  return condition(models.student_vae, models.image_encoder, reference, plucker)


def _accidental_noise(
  run: RunConfig, method: distill.Method, shape: tuple[int, ...], tau: int
) -> Float[Array, "T h w 4"]:
  scale = diffusion.accidental_noise_scale(method.student.schedule.sigmas[tau])
  key = jax.random.fold_in(_keys(run)["euler"], tau)
  return scale * jax.random.normal(key, shape)


def _last_prediction(loop: _Loop) -> Generator[Waiting, None, Float[np.ndarray, "T h w 4"]]:
  tau, iterations = loop.plan[-1]
  if not (_authors(loop.run) and iterations):  # theirs is the one from before the last update
    yield from _asked(loop.seat, seats.Step(tau))
  return loop.seat.prediction()


def _result(
  run: RunConfig, scene: Scene, vae: Network, latents: Float[Array, "N h w 4"]
) -> UInt8[np.ndarray, "N H W 3"]:
  """The edited views. Raises DivergedError where there are none."""
  _refuse_infinite(run, latents)
  return _outside_kept(run, scene, _decode(vae, latents))


def _refuse_infinite(run: RunConfig, latents: Float[Array, "N h w 4"]) -> None:
  if not np.isfinite(latents).all():
    raise DivergedError(
      f"{run.run_dir}: the edited views are not finite; start anew with a smaller "
      "--config.optim.lr or --config.dtype=float32"
    )


def _outside_kept(
  run: RunConfig, scene: Scene, images: UInt8[np.ndarray, "N H W 3"]
) -> UInt8[np.ndarray, "N H W 3"]:
  """The edited views with the photographs' own pixels outside the masks, where there are masks."""
  if scene.masks is None:
    return images
  source, hw = scene.images, images.shape[1:3]
  if source.shape[1:3] != hw:
    source = pictures.teacher_source(source, hw, authors=_authors(run))
  return masks.composite(pictures.to_uint8(source), images, scene.masks)


def _decode(vae: Network, latents: Float[Array, "N h w 4"]) -> UInt8[np.ndarray, "N H W 3"]:
  return pictures.to_uint8(jax.jit(teachers.decode)(vae, latents))
