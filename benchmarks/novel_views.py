"""How well the student shows an edited scene from where nobody stood, where the truth is known.

    python -m benchmarks.novel_views [RUN ...] [--scenes=8] [--guidance=1.0] [--steps=25]

Draws scenes of the micro world that no model has learned from, edits each truly, and asks for four
new views from 1, 2 and 4 of its truly edited views: PSNR, and warp error (colour difference in
[0, 1] of the new views carried into each other by the true depth), against copying the nearest
given view. With RUNs, finished runs on scenes of the micro world: new views from as many of their
edited ones, the reference first, by the original and by the personalised student, against the true
edit. Prints a table and a last line of JSON.
"""

import argparse
import functools
import json
import pathlib
import sys
import tempfile
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from benchmarks import machine, micro_quality
from imx2mx_jax import cameras, pictures, sampler, students, teachers
from imx2mx_jax.metrics import warp
from imx2mx_jax.micro import scenes, world
from imx2mx_jax.render import inputs as reading
from imx2mx_jax.render import settings, views
from imx2mx_jax.scene import load_depth, load_scene
from imx2mx_jax.train import samples

SEED = 920_000_000  # no training draws it or the seeds after it
GIVEN, NOVEL = (3, 6, 1, 4), (0, 2, 5, 7)
COUNTS = (1, 2, 4)
RULE, LOWEST = "multiview", 1.2


def generated(
  models: views.Models,
  images: np.ndarray,
  c2w: np.ndarray,
  K: np.ndarray,
  guidance: float,
  steps: int,
) -> np.ndarray:
  """The views of the cameras that follow those of `images`, in one pass."""
  given, frames = len(images), len(c2w)
  c2w = cameras.normalise_cameras(np.concatenate([c2w[:1], c2w]))[1:]
  clean = np.arange(frames) < given
  scales = sampler.guidance_scales(RULE, guidance, min(guidance, LOWEST), c2w, K, clean)
  latents, embeddings = jax.jit(sampler.encode)(models.vae, models.image_encoder, images)
  plucker = cameras.plucker(c2w, K, latents.shape[1:3])
  pad = lambda x: jnp.pad(x, [(0, frames - given)] + [(0, 0)] * (x.ndim - 1))
  cond = sampler.condition(pad(latents), pad(embeddings), clean, plucker)
  found = _generated(models.student, models.vae, cond, scales, steps)
  return np.asarray(found[given:])


@functools.partial(jax.jit, static_argnames="steps")
def _generated(student, vae, cond, scales, steps) -> jax.Array:
  noise = jax.random.normal(jax.random.key(0), cond.clean.shape)
  seva = students.Seva(student.graphdef)
  zeta, _ = sampler.sample(seva, student.params, cond, scales, noise, steps)
  return teachers.decode(vae, zeta)


def measured(
  found: np.ndarray, truth: np.ndarray, copies: np.ndarray, depth: np.ndarray, cams: tuple
) -> dict[str, float]:
  """Figures of new views, of copies of given views in their place, and of the truth.

  cams: poses and intrinsics of the new views; depth: theirs.
  """
  error = lambda images: warp.warp_errors(images, depth, *cams).mean
  return {
    "psnr": samples.psnr(found, truth).mean(),
    "psnr_of_copies": samples.psnr(copies, truth).mean(),
    "warp": error(found),
    "warp_of_copies": error(copies),
    "warp_of_truth": error(truth),
  }


def nearest(given: np.ndarray, new: np.ndarray) -> np.ndarray:
  """Which of the given poses stands nearest to each new one."""
  return np.linalg.norm(given[:, None, :3, 3] - new[:, :3, 3], axis=-1).argmin(axis=0)


def mean(rows: Sequence[dict]) -> dict[str, float]:
  """The mean of each figure."""
  return {name: round(float(np.mean([row[name] for row in rows])), 4) for name in rows[0]}


def from_true_edits(count: int, guidance: float, steps: int) -> dict[str, dict[str, float]]:
  """Figures by the number of given views."""
  folders = reading.Weights(
    *(str(micro_quality.BUNDLED / name) for name in ("student", "student_vae", "image_encoder"))
  )
  size = micro_quality.STUDENT_SIZE
  models = views.load_models(folders, (size, size), "float32")
  with tempfile.TemporaryDirectory() as temporary:
    at = [pathlib.Path(temporary) / f"scene_{i:02}" for i in range(count)]
    for i, folder in enumerate(at):
      scenes.write(folder, scenes.draw(SEED + i))
    cases = [micro_quality.read(folder) for folder in at]
  figures, novel = {}, list(NOVEL)
  for views_given in COUNTS:
    given, rows = list(GIVEN[:views_given]), []
    for i, case in enumerate(cases):
      # Not of shapes: depth is the unedited scene's.
      edits = [e for e in case.edits if e.instruction.split()[-1] not in world.SHAPES]
      truth, (c2w, K) = edits[i % len(edits)].images, (case.scene.c2w, case.scene.K)
      order = given + novel
      found = generated(models, truth[given], c2w[order], K[order], guidance, steps)
      copies = truth[given][nearest(c2w[given], c2w[novel])]
      rows.append(measured(found, truth[novel], copies, case.depth[novel], (c2w[novel], K[novel])))
    figures[f"{views_given} views"] = mean(rows)
  return figures


def from_runs(runs: Sequence[str], guidance: float, steps: int) -> dict[str, dict[str, float]]:
  """Figures of both students over runs, on the scene's views that were not edited."""
  kinds = [(student, count) for count in COUNTS for student in ("original", "personalised")]
  found = {kind: [_of_run(run, *kind, guidance, steps) for run in runs] for kind in kinds}
  return {f"{student} {count}": mean(rows) for (student, count), rows in found.items() if rows}


def _of_run(run: str, student: str, count: int, guidance: float, steps: int) -> dict[str, float]:
  given = reading.read(settings.parse(["", run, f"--student={student}"]))
  if len(given.images) < count:
    sys.exit(f"{run}: has {len(given.images)} views, and {count} are given to a student here")
  told = json.loads((pathlib.Path(run) / "config.json").read_text())["settings"]
  size = given.hw[0]
  scene = load_scene(told["scene.path"], size=size)
  depth, c2w, K = load_depth(scene, size), scene.c2w, scene.K
  folder = pathlib.Path(told["scene.path"])
  edits = json.loads((folder / "edits.json").read_text())["edits"]
  dirs = {edit["instruction"]: edit.get("edited_dir") for edit in edits}
  if not (edited := dirs.get(told["instruction"])):
    sys.exit(f"{run}: {folder} has no true views of {told['instruction']!r}")
  truth = np.stack([_picture(folder / edited / name, size) for name in scene.names])
  novel = [i for i, pose in enumerate(c2w) if not any(np.allclose(pose, p) for p in given.c2w)]
  models = views.load_models(given.weights, given.hw, "float32")
  images, poses, own_K = given.images[:count], given.c2w[:count], given.K[:count]
  cams = np.concatenate([poses, c2w[novel]]), np.concatenate([own_K, K[novel]])
  found = generated(models, images, *cams, guidance, steps)
  copies = images[nearest(poses, c2w[novel])]
  return measured(found, truth[novel], copies, depth[novel], (c2w[novel], K[novel]))


def _picture(file: pathlib.Path, size: int) -> np.ndarray:
  pixels = pictures.from_8_bits(np.asarray(Image.open(file).convert("RGB")))
  return cameras.resize_and_crop(pixels, size)[0]


def main() -> None:
  """Prints the figures."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("runs", nargs="*")
  parser.add_argument("--scenes", type=int, default=8)
  parser.add_argument("--guidance", type=float, default=1.0)
  parser.add_argument("--steps", type=int, default=25)
  args = parser.parse_args()
  print(machine.describe(), flush=True)
  figures = from_true_edits(args.scenes, args.guidance, args.steps) if args.scenes else {}
  figures |= from_runs(args.runs, args.guidance, args.steps)
  names = list(dict.fromkeys(name for row in figures.values() for name in row))
  print(f"{'':14}" + "".join(f"{name:>16}" for name in names))
  for what, values in figures.items():
    print(f"{what:14}" + "".join(f"{values.get(name, np.nan):16.4f}" for name in names))
  print(json.dumps({"guidance": args.guidance, "steps": args.steps, **figures}))


if __name__ == "__main__":
  main()
