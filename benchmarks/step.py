"""One iteration of the method at a size, for the benchmarks that compile or time it."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from imx2mx_jax import distill, flops, optim, students, teachers
from imx2mx_jax.models.clip_vision import ClipVision, ClipVisionShape
from imx2mx_jax.models.network import Network, abstract
from imx2mx_jax.models.seva import Seva, SevaShape
from imx2mx_jax.models.unet import UNet, UNetShape
from imx2mx_jax.models.vae import Vae, VaeShape
from imx2mx_jax.train import loop, losses, settings

ITERATIONS = 2150
"""Of a whole edit."""

VIEWS = 4


@dataclasses.dataclass(frozen=True)
class Size:
  """Shapes of the networks, sides of student's and teacher's latents, tokens of a text."""

  seva: SevaShape
  unet: UNetShape
  vae: VaeShape
  vision: ClipVisionShape
  student: int
  teacher: int
  tokens: int


SIZES = {
  "full": Size(SevaShape(), UNetShape(), VaeShape(), ClipVisionShape(), 72, 64, 77),
  "micro": Size(
    *(settings.MODELS[name].shape for name in ("student", "teacher", "vae")),
    settings.MODELS["clip"].shape.vision,
    16,
    12,
    32,
  ),
}


def arguments(size: Size, memory: str, *, real: bool = False) -> tuple[distill.Method, tuple]:
  """The method, and its arguments for one edit in bfloat16: state, teacher, conditioning, key.

  real: random numbers on the first device; else ShapeDtypeStructs.
  """
  dtype = jnp.bfloat16
  create = filled if real else abstract
  make = (lambda function, *x: jax.jit(function)(*x)) if real else jax.eval_shape
  seva, unet = create(Seva, size.seva, dtype=dtype), create(UNet, size.unet, dtype=dtype)
  rate = optim.LearningRate.over(ITERATIONS, peak=1e-4, final=5e-5, warmup=200)
  method = distill.Method(
    students.Seva(seva.graphdef, remat=memory != "default"),
    rate,
    optim.optimizer(rate, memory=memory),
    (size.teacher, size.teacher),
  )
  frames, cells, width = VIEWS + 1, size.student, size.seva.context_width

  def begin(params):
    noise = jax.random.normal(jax.random.key(1), (frames, cells, cells, 4))
    plucker = jnp.zeros((frames, cells, cells, 6))
    cond = students.seva_conditioning(noise[0], jnp.zeros(width), plucker)
    return distill.init(method, params, {}, noise, 999), cond, jax.random.key(0)

  def edit(params):
    text = jnp.zeros((size.tokens, size.unet.context_width))
    source = jnp.zeros((VIEWS, size.teacher, size.teacher, 4))
    frozen = jax.tree.map(lambda x: x.astype(dtype), params)
    return frozen, text, source, jnp.float32(1.5)

  state, cond, key = make(begin, seva.params)
  frozen, text, source, scale = make(edit, unet.params)
  network = Network(unet.graphdef, frozen)
  teacher = teachers.InstructPix2Pix(network, text, text, source, scale, scale)
  return method, (state, teacher, cond, key)


def filled(cls: type[nnx.Module], shape: Any, **kwargs) -> Network:
  """A network of random numbers from the host, as nothing need be compiled to draw them."""
  network, rng = abstract(cls, shape, **kwargs), np.random.default_rng(0)

  def draw(path: str, x: jax.ShapeDtypeStruct) -> np.ndarray:
    if not path.endswith("kernel"):
      return np.full(x.shape, path.endswith("scale"), x.dtype)
    numbers = rng.standard_normal(x.shape, np.float32) / np.prod(x.shape[:-1]) ** 0.5
    return numbers.astype(x.dtype)

  params = {path: jnp.asarray(draw(path, x)) for path, x in network.params.items()}
  return Network(network.graphdef, params)


@dataclasses.dataclass(frozen=True)
class _Given:
  """A training's source whose batches come from outside."""

  table: None = None

  def batch(self, table: None, rows: losses.Batch, key: jax.Array) -> losses.Batch:
    """The rows."""
    return rows


def training(size: Size, mesh: Mesh) -> tuple[loop.Program, tuple]:
  """A training of the student with a set of five views to each device, and a step's arguments.

  bfloat16 over float32 masters, AdamW, averaged weights; ShapeDtypeStructs of state, frozen
  networks, batch, learning rate and key.
  """
  nets = {
    "seva": abstract(Seva, size.seva, dtype=jnp.bfloat16),
    "vae": abstract(Vae, size.vae, dtype=jnp.bfloat16),
    "vision": abstract(ClipVision, size.vision, dtype=jnp.bfloat16),
  }
  params = {f"{name}/{path}": x for name, net in nets.items() for path, x in net.params.items()}
  learning = {path: x for path, x in params.items() if path.startswith("seva/")}
  program = loop.Program(
    functools.partial(losses.multi_view, settings=settings.MultiViewLoss()),
    {name: net.graphdef for name, net in nets.items()},
    _Given(),
    optim.optimizer(optim.LearningRate.over(1, peak=1.0, final=1.0, warmup=0)),
    ema=0.999,
    mesh=mesh,
    remat=True,
  )
  blank = lambda *shape: jax.ShapeDtypeStruct((mesh.size, VIEWS + 1, *shape), jnp.float32)
  side = size.student * size.vae.cell
  batch = {"images": blank(side, side, 3), "c2w": blank(4, 4), "K": blank(3, 3)}
  frozen = {path: x for path, x in params.items() if path not in learning}
  rate, key = jax.eval_shape(lambda: (jnp.float32(0), jax.random.key(0)))
  state = jax.eval_shape(functools.partial(loop.initial_state, program), learning)
  return program, (state, loop.Given(frozen, {}, None), batch, rate, key)


def training_flops(size: Size) -> int:
  """Of a training's step on one set: the student's three passes and the frozen networks' one.

  The tower sees as many of the set's pictures as may be clean ones.
  """
  shape, cells, frames = size.seva, (size.student,) * 2, VIEWS + 1
  student = 3 * flops.of_student(abstract(Seva, shape), shape, frames, cells)
  side = size.student * size.vae.cell
  encode = lambda net, x: net.module.encode(x)
  images = jax.ShapeDtypeStruct((frames, side, side, 3), jnp.float32)
  tower, most = size.vision, len(settings.MultiViewLoss().inputs)
  pixels = jax.ShapeDtypeStruct((most, tower.image_size, tower.image_size, 3), jnp.float32)
  embed = flops.count(lambda net, x: net(x), abstract(ClipVision, tower), pixels)
  return student + flops.count(encode, abstract(Vae, size.vae), images) + embed


def model_flops(size: Size) -> int:
  """Of one iteration of one edit."""
  unet, cells, grid = size.unet, (size.student,) * 2, (size.teacher,) * 2
  text = (size.tokens, unet.context_width)
  student = flops.of_student(abstract(Seva, size.seva), size.seva, VIEWS + 1, cells)
  teacher = flops.of_teacher(abstract(UNet, unet), unet, VIEWS, 3, grid, text)
  return flops.of_iteration(student, teacher)
