"""How good the micro models are, on scenes that none of them has learned from.

    python -m benchmarks.micro_quality [SCENES] [--models=FOLDER]

SCENES: a folder of scenes as `python -m imx2mx_jax.micro.scenes` writes them; without it 16 are
written to a temporary folder. --models: a folder with teacher, student, student_vae, image_encoder
and metric_clip; without it the bundled ones. Prints a line for each measure with the figures that
put it in proportion, and a last line of JSON:

    vae_psnr          decibels between a view and its reconstruction, mean over all views
    clip_top1         share of 250 pictures whose nearest caption, of 250 different ones, is theirs
    teacher_success   share of edited views, of definite edits, whose squared error is below .2 of
                      the source's
    student_gain_db   PSNR of novel views from one clean view, above that of copying it
    student_warp      colour difference in [0, 1] of generated views warped to each other truly
"""

import argparse
import dataclasses
import json
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

import imx2mx_jax
from benchmarks import machine
from imx2mx_jax import (
  cameras,
  diffusion,
  pictures,
  students,
  teachers,
  terminal,
  tokenizer,
  weights,
)
from imx2mx_jax.errors import SceneError
from imx2mx_jax.metrics import warp
from imx2mx_jax.micro import render, scenes, world
from imx2mx_jax.models import clip_vision
from imx2mx_jax.models.network import Network
from imx2mx_jax.scene import Scene, load_depth, load_scene
from imx2mx_jax.train import samples

BUNDLED = pathlib.Path(imx2mx_jax.__file__).parent / "micro" / "bundled"
DRAWN, FIRST_SEED = 16, 910_000_000  # no training draws these seeds
STUDENT_SIZE, TEACHER_SIZE = 64, 48
CAPTIONS = 250
TEXT_GUIDANCE, IMAGE_GUIDANCE, EDIT_STEPS = 1.0, 1.0, 20
EDITED_VIEWS = (1, 5)
INPUT_VIEWS, NOVEL_VIEWS, VIEW_STEPS = (3, 6), (0, 2, 5, 7), 25
RIGHT, UNTOUCHED = 0.2, 0.02


@dataclasses.dataclass(frozen=True)
class TruthOfEdit:
  """A definite edit of a scene and its true views, at the student's size."""

  instruction: str
  caption: str
  images: np.ndarray


@dataclasses.dataclass(frozen=True)
class Case:
  """A scene of eight views with what is known of it."""

  scene: Scene
  depth: np.ndarray
  caption: str
  edits: tuple[TruthOfEdit, ...]


def read(folder: pathlib.Path) -> Case:
  """One scene's folder."""
  scene = load_scene(folder, size=STUDENT_SIZE)
  told = json.loads((folder / "edits.json").read_text())
  edits = tuple(
    TruthOfEdit(
      edit["instruction"], edit["edited_caption"], _views(folder / edit["edited_dir"], scene.names)
    )
    for edit in told["edits"]
    if edit["definite"]
  )
  return Case(scene, load_depth(scene, STUDENT_SIZE), told["source_caption"], edits)


def _views(folder: pathlib.Path, names: Sequence[str]) -> np.ndarray:
  pixels = [np.asarray(Image.open(folder / name).convert("RGB")) for name in names]
  return np.stack(
    [cameras.resize_and_crop(pictures.from_8_bits(p), STUDENT_SIZE)[0] for p in pixels]
  )


@jax.jit
def reconstruct(vae: Network, images: jax.Array) -> jax.Array:
  """Encoded and decoded."""
  return jnp.clip(vae.module.decode(vae.module.encode(images)[0]), -1, 1)


def autoencoder(models: pathlib.Path, cases: Sequence[Case]) -> float:
  """vae_psnr."""
  vae = weights.load(models / "student_vae", "student_vae")["vae"]
  rows = [samples.psnr(reconstruct(vae, case.scene.images), case.scene.images) for case in cases]
  print(f"autoencoder: {np.mean(rows):.2f} dB over {np.size(rows)} views")
  return float(np.mean(rows))


def retrieval(models: pathlib.Path, cases: Sequence[Case]) -> float:
  """clip_top1. Captions and pictures of the scenes, filled up with further worlds."""
  images = {case.caption: case.scene.images[i % 8] for i, case in enumerate(cases)}
  for i, case in enumerate(cases):
    images |= {edit.caption: edit.images[i % 8] for edit in case.edits}
  images = dict(list(images.items())[:CAPTIONS])
  seed = FIRST_SEED + 10**6
  further = {}
  while len(images | further) < CAPTIONS:
    drawn = world.sample(seed)
    further.setdefault(world.caption(drawn), (drawn, world.cameras(seed)[seed % 8]))
    seed += 1
  further = {caption: row for caption, row in further.items() if caption not in images}
  if further:
    drawn, c2w = zip(*further.values(), strict=True)
    look = jax.vmap(lambda row, pose: render.render(row, pose, world.K, STUDENT_SIZE, 2)[0])
    seen = jax.jit(look)(render.arrays(drawn), jnp.asarray(np.stack(c2w), jnp.float32))
    images |= dict(zip(further, np.asarray(seen), strict=True))

  clip = weights.load(models / "metric_clip", "metric_clip")["clip"]
  ids = tokenizer.encode(tokenizer.load(models / "metric_clip" / weights.TOKENIZER), list(images))
  cosines = np.asarray(_cosines(clip, np.stack(list(images.values())), ids))
  right = [(cosines.argmax(axis=axis) == np.arange(len(images))).mean() for axis in (1, 0)]
  print(f"CLIP: {right[0]:.3f} of {len(images)} pictures, {right[1]:.3f} of the captions")
  return float(right[0])


@jax.jit
def _cosines(clip: Network, images: jax.Array, ids: jax.Array) -> jax.Array:
  shape = clip.module.vision.shape
  pixels = clip_vision.preprocess(images, shape.image_size, shape.mean, shape.std)
  return clip.module.embed_images(pixels) @ clip.module.embed_texts(ids).T


def editor(models: pathlib.Path, cases: Sequence[Case]) -> float:
  """teacher_success."""
  nets = weights.load(models / "teacher", "teacher")
  words = tokenizer.load(models / "teacher" / weights.TOKENIZER)
  rows = [row for case in cases for row in _judged(nets, words, case)]
  mean = lambda name: float(np.mean([row[name] for row in rows]))
  right = float(np.mean([row["ratio"] < RIGHT for row in rows]))
  alone = float(np.mean([row["autoencoder"] < RIGHT for row in rows]))
  print(f"teacher: {right:.3f} of {len(rows)} edits right (autoencoder alone {alone:.3f})")
  print(f"  median ratio {np.median([row['ratio'] for row in rows]):.3f}")
  print(f"  nearest to the wanted of the scene's edits: {mean('followed'):.3f}")
  touched = np.nanmean([row["touched"] for row in rows])  # of a new sky everything may change
  print(f"  what should stay: {10 * np.log10(4 / touched):.1f} dB")
  for name, holds in _KINDS.items():
    ratios = [row["ratio"] for row in rows if holds(row["instruction"])]
    if ratios:
      print(f"  {name}: {np.mean(np.array(ratios) < RIGHT):.3f} of {len(ratios)}")
  return right


def _judged(nets: dict[str, Network], words: object, case: Case) -> Iterator[dict[str, object]]:
  """A row for each edited view of a case; errors are squared, ratios are to the source's error."""
  views = list(EDITED_VIEWS)
  small = lambda images: np.asarray(pictures.teacher_source(images[views], TEACHER_SIZE))
  error = lambda found, wanted: np.square(found - wanted).mean(axis=(-3, -2, -1))
  cells = nets["vae"].module.shape.grid((TEACHER_SIZE, TEACHER_SIZE))
  noise = jax.random.normal(jax.random.key(0), (EDIT_STEPS + 1, len(views), *cells, 4))
  source = small(case.scene.images)
  truths = [small(edit.images) for edit in case.edits]
  for edit, truth in zip(case.edits, truths, strict=True):
    ids = tokenizer.encode(words, [edit.instruction, ""])
    found = np.asarray(_edited(nets, source, ids, noise))
    decoded = np.asarray(reconstruct(nets["vae"], truth))
    nearest = np.argmin([error(found, other) for other in truths], axis=0)
    for i in range(len(views)):
      same = (np.abs(truth[i] - source[i]) < UNTOUCHED).all(axis=-1)
      yield {
        "instruction": edit.instruction,
        "ratio": error(found[i], truth[i]) / error(source[i], truth[i]),
        "autoencoder": error(decoded[i], truth[i]) / error(source[i], truth[i]),
        "followed": truths[nearest[i]] is truth,
        "touched": np.square(found[i] - source[i])[same].mean() if same.any() else np.nan,
      }


_KINDS = {
  "sky": lambda words: words.startswith("make it "),
  "floor": lambda words: "floor" in words,
  "colour": lambda words: words.split()[-1] in world.COLORS,
  "shape": lambda words: words.split()[-1] in world.SHAPES,
}


@jax.jit
def _edited(nets, source: jax.Array, ids: jax.Array, noise: jax.Array) -> jax.Array:
  latents = teachers.encode_sources(nets["vae"], source)
  teacher = teachers.instruct_pix2pix(
    nets["unet"], nets["text_encoder"], ids, latents, TEXT_GUIDANCE, IMAGE_GUIDANCE
  )
  edited = teachers.edit_views(teacher, noise[0], noise[1:])[-1]
  return teachers.decode(nets["vae"], edited)


def novel_views(models: pathlib.Path, cases: Sequence[Case]) -> tuple[float, float]:
  """student_gain_db and student_warp."""
  vae = weights.load(models / "student_vae", "student_vae")["vae"]
  vision = weights.load(models / "image_encoder", "image_encoder")["vision"]
  seva = weights.load(models / "student", "student")["seva"]
  results = []
  for count in (1, len(INPUT_VIEWS)):
    rows = [_compared(vae, vision, seva, case, list(INPUT_VIEWS[:count])) for case in cases]
    figures = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    gain = figures["psnr"] - figures["psnr of copies"]
    told = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
    print(f"student, {count} clean views: gain {gain:.2f} dB ({told})")
    results.append((gain, figures["warp"]))
  return results[0]


def _compared(
  vae: Network, vision: Network, seva: Network, case: Case, inputs: list[int]
) -> dict[str, float]:
  """Novel views of a case from its clean views `inputs`, against copying the nearest of these."""
  images, c2w, K = case.scene.images, case.scene.c2w, case.scene.K
  novel = list(NOVEL_VIEWS)
  order = inputs + novel
  poses = cameras.normalise_cameras(c2w[order])
  plucker = cameras.plucker(poses, K[order], vae.module.shape.grid((STUDENT_SIZE, STUDENT_SIZE)))
  found = np.asarray(_generated(vae, vision, seva, images[inputs], plucker))
  away = lambda i, j: np.linalg.norm(c2w[i, :3, 3] - c2w[j, :3, 3])
  copies = images[[min(inputs, key=lambda i: away(i, j)) for j in novel]]
  truth = images[novel]
  error = lambda views: warp.warp_errors(views, case.depth[novel], c2w[novel], K[novel]).mean
  return {
    "psnr": samples.psnr(found, truth).mean(),
    "psnr of copies": samples.psnr(copies, truth).mean(),
    "warp": error(found),
    "of copies": error(copies),
    "of the truth": error(truth),
    "of the truth reconstructed": error(np.asarray(reconstruct(vae, truth))),
  }


@jax.jit
def _generated(
  vae: Network, vision: Network, seva: Network, clean: jax.Array, plucker: jax.Array
) -> jax.Array:
  """Novel views for the cameras that follow those of the clean views, without guidance."""
  module, tower, shape = vae.module, vision.module, vision.module.shape
  count, frames = len(clean), len(plucker)
  latents = module.encode(clean)[0] * module.shape.scaling_factor
  pixels = clip_vision.preprocess(clean, shape.image_size, shape.mean, shape.std)
  cond = students.SevaConditioning(
    jnp.zeros((frames, *latents.shape[1:])).at[:count].set(latents),
    jnp.zeros(frames).at[:count].set(1),
    plucker,
    tower(pixels).mean(axis=0, keepdims=True),
  )
  student = students.Seva(seva.graphdef)
  schedule, taus = student.schedule, np.array(diffusion.sampling_timesteps(VIEW_STEPS))
  sigmas = schedule.sigmas[taus]

  def step(zeta: jax.Array, levels: tuple) -> tuple[jax.Array, None]:
    tau, sigma, sigma_next = levels
    zeta0 = student.predict(seva.params, cond, zeta, tau)
    return diffusion.euler_step(zeta, zeta0, sigma, sigma_next), None

  noise = jax.random.normal(jax.random.key(0), cond.clean.shape)
  levels = (jnp.asarray(taus), jnp.asarray(sigmas), jnp.asarray(np.append(sigmas[1:], 0)))
  zeta, _ = jax.lax.scan(step, noise * schedule.init_scale(), levels)
  return teachers.decode(vae, zeta[count:])


def main() -> int:
  """Prints the figures; gives the exit code."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("scenes", nargs="?", type=pathlib.Path)
  parser.add_argument("--models", type=pathlib.Path, default=BUNDLED)
  args = parser.parse_args()
  return terminal.exit_code(lambda: _measure(args.scenes, args.models))


def _measure(given: pathlib.Path | None, models: pathlib.Path) -> int:
  print(machine.describe(), flush=True)
  with tempfile.TemporaryDirectory() as temporary:
    folder = given or pathlib.Path(temporary)
    for i in range(0 if given else DRAWN):
      scenes.write(folder / f"scene_{i:02}", scenes.draw(FIRST_SEED + i))
    cases = [read(file.parent) for file in sorted(folder.glob("*/transforms.json"))]
  if not cases:
    raise SceneError(f"{given} holds no scene (no */transforms.json); micro.scenes writes some")
  figures = {
    "vae_psnr": autoencoder(models, cases),
    "clip_top1": retrieval(models, cases),
    "teacher_success": editor(models, cases),
  }
  gain, error = novel_views(models, cases)
  figures |= {"student_gain_db": gain, "student_warp": error}
  print(json.dumps({name: round(value, 4) for name, value in figures.items()}))
  return 0


if __name__ == "__main__":
  sys.exit(main())
