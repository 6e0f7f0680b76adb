"""Where the teacher would move the true edit, by its timestep and guidance.

    python -m benchmarks.gradient [--ambiguous] [--scenes=4] [--guidance=1,1.5,2.5,4]
        [--config=configs/default.py] [--config.FIELD=VALUE ...]

Score distillation rests where the teacher's gradient is nothing. This takes a definite edit of each
of some scenes of the micro world (those that settings are chosen on), encodes its truth, and prints
the root mean square, over views, cells and edits, of

    mean over noise and key views of (sigma_t / alpha_t) (eps_hat - eps)

which is how far from the truth, in units of the latents, the teacher would have it; beside it, in
brackets, the deviation of one draw from that mean. With --ambiguous it takes edits that have
several right answers and prints how far the teacher would move each of them to the mean of all: 0
leaves it, 1 makes it the mean.
"""

import argparse
import dataclasses
import functools
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import ablations, machine
from imx2mx_jax import config, diffusion, edit, editors, scene, teachers
from imx2mx_jax.errors import UserError
from imx2mx_jax.shapes import Array, Float, Int, Key
from imx2mx_jax.teachers import SCHEDULE, Teacher

FIRST_SEED = 930_000_000
TIMESTEPS = (950, 900, 800, 700, 600, 500, 400, 200)
DRAWS = 16
DRAWS_OF_ANSWERS = 4  # of each; a projection of the mean pull needs fewer than its length


@functools.partial(jax.jit, static_argnames=("draws", "cross_view"))
def pulls(
  teacher: Teacher,
  z0: Float[Array, "N h w 4"],
  t: Int[Array, ""],
  key: Key[Array, ""],
  *,
  draws: int,
  cross_view: bool = True,
) -> Float[Array, "draws N h w 4"]:
  """(sigma_t / alpha_t) (eps_hat - eps) for some draws of noise and key view."""
  alpha, sigma = SCHEDULE.alpha_sigma(t)

  def one(key):
    for_noise, for_view = jax.random.split(key)
    eps = jax.random.normal(for_noise, z0.shape)
    key_view = jax.random.randint(for_view, (), 0, len(z0)) if cross_view else None
    z_t = diffusion.add_noise(z0, eps, alpha, sigma)
    return sigma / alpha * (teacher.predict_noise(z_t, t, key_view) - eps)

  return jax.lax.map(one, jax.random.split(key, draws))


def squares(found: np.ndarray) -> tuple[float, float]:
  """Mean squares of draws: of their mean, unbiased, and of one draw's deviation from it."""
  spread = float(found.var(axis=0, ddof=1).mean())
  return float(np.square(found.mean(axis=0)).mean()) - spread / len(found), spread


def toward_mean(found: np.ndarray, answers: np.ndarray) -> float:
  """How far draws of every answer's pull would move it to the mean of all, mean over answers.

  found: [A draws N h w 4]. answers: [A N h w 4].
  """
  way = answers.mean(axis=0) - answers
  moved = -found.mean(axis=1)  # a pull is z0 less what the teacher would have
  axes = (1, 2, 3, 4)
  return float(np.mean((moved * way).sum(axis=axes) / np.square(way).sum(axis=axes)))


def true_edits(
  folder: pathlib.Path, count: int, settings: config.ConfigDict, which: int
) -> Iterator[tuple[Teacher, Float[Array, "A N h w 4"]]]:
  """The teacher of one edit of each scene, and the latents of its right answers.

  which: of a scene's tasks; 0 is definite and has one answer, 1 is ambiguous.
  """
  models = edit.load_models(config.resolve(settings, jax.default_backend()))
  bench = ablations.Bench(folder, settings, models, None)
  for number, path in enumerate(ablations.drawn_scenes(folder, count, FIRST_SEED)):
    task = ablations.tasks(path, number)[which]
    run = bench.run(ablations.FULL, task, settings.seed)
    models = dataclasses.replace(models, ids=edit.instruction_ids(run))
    read = scene.load_scene(path, run.scene.frames, size=run.student.size)
    known = ablations.truth(task, read, run.teacher.size)
    modes = jnp.stack([jax.jit(teachers.encode_sources)(models.vae, x) for x in known.answers])
    teacher = editors.make(run, models, read, range(len(known.sources)), known.sources)
    yield teacher, modes * models.vae.module.shape.scaling_factor


Edits = Sequence[tuple[Teacher, Array]]


def pull_cell(edits: Edits, t: int, scale: float, cross_view: bool) -> str:
  """The pull of all edits together, and its spread."""
  each = []
  for number, (teacher, answers) in enumerate(edits):
    guided = dataclasses.replace(teacher, text_scale=jnp.float32(scale))
    key, how = jax.random.key(number), {"draws": DRAWS, "cross_view": cross_view}
    found = pulls(guided, answers[0], jnp.int32(t), key, **how)
    each.append(squares(np.asarray(found)))
  pull, spread = np.sqrt(np.maximum(np.mean(each, axis=0), 0))
  return f"{pull:.3f} ({spread:.3f})"


def mean_cell(edits: Edits, t: int, scale: float, cross_view: bool) -> str:
  """How far right answers would be moved to their mean, of all edits together."""
  each = []
  for number, (teacher, answers) in enumerate(edits):
    guided = dataclasses.replace(teacher, text_scale=jnp.float32(scale))
    keys, how = jax.random.split(jax.random.key(number), len(answers)), {"cross_view": cross_view}
    found = [
      pulls(guided, z0, jnp.int32(t), key, draws=DRAWS_OF_ANSWERS, **how)
      for key, z0 in zip(keys, answers, strict=True)
    ]
    each.append(toward_mean(np.stack(found), np.asarray(answers)))
  return f"{np.mean(each):.3f}"


def _scales(text: str) -> list[float]:
  return [float(scale) for scale in text.split(",")]


def main(argv: Sequence[str]) -> int:
  """Measures and prints the table; gives the exit code."""
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.gradient",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument("--ambiguous", action="store_true", help="of edits with several answers")
  parser.add_argument("--scenes", type=ablations.positive, default=4)
  parser.add_argument("--guidance", type=_scales, default=[1.0, 1.5, 2.5, 4.0], help="of the text")
  args, rest = parser.parse_known_args(argv[1:])
  try:
    settings = ablations.settings_of(rest)
    with tempfile.TemporaryDirectory() as folder:
      edits = [*true_edits(pathlib.Path(folder), args.scenes, settings, int(args.ambiguous))]
    cell = mean_cell if args.ambiguous else pull_cell
    print(machine.describe())
    print(f"| t | {' | '.join(map(str, args.guidance))} |\n|---|{'---|' * len(args.guidance)}")
    for t in TIMESTEPS:
      cells = [cell(edits, t, scale, settings.teacher.cross_view) for scale in args.guidance]
      print(f"| {t} | {' | '.join(cells)} |", flush=True)
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv))
