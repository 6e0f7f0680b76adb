"""Novel views, pass by pass and chunk by chunk; tells of the steps between. Writes nothing."""

import dataclasses
import functools
import time
from collections.abc import Container, Generator, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from imx2mx_jax import cameras, paths, pictures, sampler, sharding, teachers, weights
from imx2mx_jax.errors import ConfigError, WeightsError
from imx2mx_jax.models.network import Network
from imx2mx_jax.render.inputs import Inputs, Weights
from imx2mx_jax.render.settings import RenderConfig
from imx2mx_jax.shapes import Array, Bool, Float, Params, UInt8, np
from imx2mx_jax.students import Seva, SevaConditioning

_TOGETHER = 10  # steps at most between two looks at the clock


@dataclasses.dataclass(frozen=True)
class Models:
  """The student, divided among all devices; its encoder and decoder; the encoder of pictures."""

  student: Network
  vae: Network
  image_encoder: Network


@dataclasses.dataclass(frozen=True)
class Rendered:
  """Some of the path's frames. done: how many are finished.

  anchors: what a later call needs to go on from the first pass; else empty.
  """

  frames: tuple[int, ...]
  images: UInt8[np.ndarray, "F H W 3"]
  done: int
  anchors: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Advanced:
  """Some steps of a pass. left: steps that this rendering has still to take. seconds: for these."""

  taken: int
  left: int
  seconds: float


Event = Advanced | Rendered


def load_models(folders: Weights, hw: tuple[int, int], dtype: str) -> Models:
  """The networks. Raises WeightsError, and ConfigError for a size that does not divide."""
  student = weights.read_info(folders.student, "student").networks["seva"].shape
  vae = weights.read_info(folders.student_vae, "student_vae").networks["vae"].shape
  encoder = weights.read_info(folders.image_encoder, "image_encoder").networks["vision"].shape
  if student.context_width != encoder.embed_width:
    raise WeightsError(
      f"{folders.image_encoder}: its embeddings have width {encoder.embed_width} and the student "
      f"{folders.student} reads {student.context_width}; convert the encoder that it came with"
    )
  multiple = vae.cell * 2 ** (len(student.channel_mult) - 1)
  if any(side % multiple for side in hw):
    near = "x".join(str(max(1, round(side / multiple)) * multiple) for side in hw[::-1])
    raise ConfigError(
      f"--size={hw[1]}x{hw[0]}: both must be multiples of {multiple}, for example {near}"
    )
  load = functools.partial(weights.load, dtype=jnp.dtype(dtype))
  divide = functools.partial(sharding.put, _mesh())
  return Models(
    load(folders.student, "student", place=divide)["seva"],
    load(folders.student_vae, "student_vae")["vae"],
    load(folders.image_encoder, "image_encoder")["vision"],
  )


def plan(wanted: RenderConfig, inputs: Inputs, frames: int) -> sampler.Passes:
  """The passes in which a path of so many frames is rendered."""
  return sampler.passes(frames, len(inputs.images), wanted.at_once)


def abstract_anchors(
  passes: sampler.Passes, models: Models, hw: tuple[int, int]
) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes of `Rendered.anchors`."""
  count, width = len(passes.anchors), models.image_encoder.module.shape.embed_width
  shapes = {"latents": (count, *models.vae.module.shape.grid(hw), 4), "embeddings": (count, width)}
  return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}


def render(
  wanted: RenderConfig,
  inputs: Inputs,
  path: paths.Cameras,
  models: Models,
  anchors: Mapping[str, Array] | None = None,
  done: Container[int] = (),
) -> Iterator[Event]:
  """The path's views, as they are finished, and the steps on the way.

  anchors: of an earlier call with the same settings, None for none. done: frames that it finished;
  chunks of them alone are left out. The result does not depend on either.
  """
  passes = plan(wanted, inputs, len(path[0]))
  work = _prepare(wanted, inputs, path, models)
  finished = {frame for frame in range(len(path[0])) if frame in done}
  first = bool(passes.anchors) and (anchors is None or not finished.issuperset(passes.anchors))
  known = finished.union(passes.anchors)
  missing = [tuple(sorted(set(chunk) - known)) for chunk in passes.chunks]
  chunks = [number for number, frames in enumerate(missing) if frames]
  if first:
    images, anchors = yield from _first_pass(work, passes, later=len(chunks))
    finished = known
    yield Rendered(passes.anchors, images, len(finished), anchors)
  anchors = {name: np.asarray(array) for name, array in (anchors or {}).items()}
  for later, number in zip(reversed(range(len(chunks))), chunks, strict=True):
    images = yield from _chunk(work, passes, anchors, number, later)
    frames = missing[number]
    images = images[[passes.chunks[number].index(frame) for frame in frames]]
    finished = finished.union(frames)
    yield Rendered(frames, images, len(finished), {})


@dataclasses.dataclass(frozen=True)
class _Work:
  """What all passes share. Cameras are normalised; the views come first, then the path."""

  wanted: RenderConfig
  models: Models
  latents: Float[np.ndarray, "n h w 4"]
  embeddings: Float[np.ndarray, "n D"]
  c2w: Float[np.ndarray, "all 4 4"]
  K: Float[np.ndarray, "all 3 3"]

  @property
  def views(self) -> int:
    return len(self.latents)


def _prepare(wanted: RenderConfig, inputs: Inputs, path: paths.Cameras, models: Models) -> _Work:
  c2w = np.concatenate([inputs.c2w, path[0]])
  # The first view is the reference, by whose distance the scene is scaled; then it counts as one.
  c2w = cameras.normalise_cameras(np.concatenate([c2w[:1], c2w]), scale=wanted.camera_scale)[1:]
  K = np.concatenate([inputs.K, path[1].astype(np.float32)])
  latents, embeddings = jax.jit(sampler.encode)(models.vae, models.image_encoder, inputs.images)
  return _Work(wanted, models, np.asarray(latents), np.asarray(embeddings), c2w, K)


def _first_pass(
  work: _Work, passes: sampler.Passes, later: int
) -> Generator[Advanced, None, tuple[np.ndarray, dict[str, np.ndarray]]]:
  """The anchors' pictures, and what the second pass reads of them. later: passes after this."""
  count, views = len(passes.anchors), work.views
  rows = [*range(views), *(views + frame for frame in passes.anchors)]
  clean = np.arange(len(rows)) < views
  latents = np.pad(work.latents, [(0, count), (0, 0), (0, 0), (0, 0)])
  embeddings = np.pad(work.embeddings, [(0, count), (0, 0)])
  wanted = work.wanted
  zeta, images = yield from _sampled(
    work, rows, latents, embeddings, clean, wanted.rule, wanted.guidance, number=0, later=later
  )
  _, embeddings = jax.jit(sampler.encode)(
    work.models.vae, work.models.image_encoder, images[views:]
  )
  arrays = {"latents": np.asarray(zeta[views:]), "embeddings": np.asarray(embeddings)}
  return pictures.to_uint8(images[views:]), arrays


def _chunk(
  work: _Work, passes: sampler.Passes, anchors: Mapping[str, np.ndarray], number: int, later: int
) -> Generator[Advanced, None, np.ndarray]:
  """The pictures of a chunk's frames; those of anchors are without meaning."""
  chunk, views, wanted = passes.chunks[number], work.views, work.wanted
  at = [views + frame for frame in chunk]
  kept = sampler.nearest_views(work.c2w[:views], work.c2w[at], passes.kept)
  own = {frame: i for i, frame in enumerate(passes.anchors)}
  clean = np.array([True] * len(kept) + [frame in own for frame in chunk])
  fill = lambda given, made: np.stack(
    [given[i] for i in kept]
    + [made[own[frame]] if frame in own else np.zeros_like(given[0]) for frame in chunk]
  )
  latents = fill(work.latents, anchors.get("latents", ()))
  embeddings = fill(work.embeddings, anchors.get("embeddings", ()))
  second = bool(passes.anchors)
  rule = wanted.rule_second if second else wanted.rule
  guidance = wanted.guidance_second if second else wanted.guidance
  rows = [*kept, *at]
  _, images = yield from _sampled(
    work, rows, latents, embeddings, clean, rule, guidance, number + 1, later
  )
  return pictures.to_uint8(images[len(kept) :])


def _sampled(
  work: _Work,
  rows: Sequence[int],
  latents: Float[np.ndarray, "T h w 4"],
  embeddings: Float[np.ndarray, "T D"],
  clean: Bool[np.ndarray, " T"],
  rule: str,
  guidance: float,
  number: int,
  later: int,
) -> Generator[Advanced, None, tuple[Float[Array, "T h w 4"], Float[Array, "T H W 3"]]]:
  """Latents and pictures of some cameras (rows of all), those that are clean being given."""
  c2w, K, wanted = work.c2w[rows], work.K[rows], work.wanted
  plucker = cameras.plucker(c2w, K, latents.shape[1:3])
  cond = sampler.condition(latents, embeddings, clean, plucker)
  lowest = min(guidance, wanted.guidance_min)
  scales = sampler.guidance_scales(rule, guidance, lowest, c2w, K, clean)
  network = work.models.student
  student = Seva(network.graphdef)
  key = jax.random.fold_in(jax.random.key(wanted.seed), number)
  zeta, levels = sampler.start(student, jax.random.normal(key, latents.shape), wanted.steps)
  together = max(n for n in range(1, _TOGETHER + 1) if wanted.steps % n == 0)
  for step in range(0, wanted.steps, together):
    began = time.monotonic()
    some = sampler.Levels(*(level[step : step + together] for level in levels))
    with sharding.on(_mesh()):
      zeta = _advanced(student, network.params, cond, scales, zeta, some).block_until_ready()
    left = wanted.steps * (later + 1) - step - together
    yield Advanced(together, left, time.monotonic() - began)
  with sharding.on(_mesh()):
    return zeta, jax.jit(teachers.decode)(work.models.vae, zeta)


def _mesh() -> Mesh:
  """All devices, which share every pass."""
  return sharding.make_mesh(1, -1)


@functools.partial(jax.jit, static_argnames="student")
def _advanced(
  student: Seva,
  params: Params,
  cond: SevaConditioning,
  scales: Float[Array, " T"],
  zeta: Float[Array, "T h w 4"],
  levels: sampler.Levels,
) -> Float[Array, "T h w 4"]:
  return sampler.advance(student, params, cond, scales, zeta, levels)[0]
