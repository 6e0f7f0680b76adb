"""One iteration of the method at a size, for the benchmarks that compile or time it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from imx2mx_jax import distill, flops, optim, students, teachers
from imx2mx_jax.models.network import Network, abstract, initialise
from imx2mx_jax.models.seva import Seva, SevaShape
from imx2mx_jax.models.unet import UNet, UNetShape
from imx2mx_jax.train import settings

ITERATIONS = 2150
"""Of a whole edit."""

VIEWS = 4


@dataclasses.dataclass(frozen=True)
class Size:
  """Shapes of the networks, sides of student's and teacher's latents, tokens of a text."""

  seva: SevaShape
  unet: UNetShape
  student: int
  teacher: int
  tokens: int


SIZES = {
  "full": Size(SevaShape(), UNetShape(), 72, 64, 77),
  "micro": Size(settings.MODELS["student"].shape, settings.MODELS["teacher"].shape, 16, 12, 32),
}


def arguments(size: Size, memory: str, *, real: bool = False) -> tuple[distill.Method, tuple]:
  """The method, and its arguments for one edit in bfloat16: state, teacher, conditioning, key.

  real: random numbers on the first device; else ShapeDtypeStructs.
  """
  dtype = jnp.bfloat16
  create = functools.partial(initialise, seed=0) if real else abstract
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


def model_flops(size: Size) -> int:
  """Of one iteration of one edit."""
  unet, cells, grid = size.unet, (size.student,) * 2, (size.teacher,) * 2
  text = (size.tokens, unet.context_width)
  student = flops.of_student(abstract(Seva, size.seva), size.seva, VIEWS + 1, cells)
  teacher = flops.of_teacher(abstract(UNet, unet), unet, VIEWS, 3, grid, text)
  return flops.of_iteration(student, teacher)
