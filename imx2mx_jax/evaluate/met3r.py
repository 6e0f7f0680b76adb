"""Pairs of views for MEt3R (arXiv 2501.06336), which needs a GPU, PyTorch3D and a build of its own.

A folder has pairs.npz with `edited` and `photographs`, each [pairs, 2, 3, 256, 256] in [-1, 1], as
MEt3R reads them; pairs.json with each pair's run and views; and score.py, which prints the scores.
"""

import io
import itertools
import json
from collections.abc import Sequence

import jax.image
from etils import epath

from imx2mx_jax.evaluate.runs import Run
from imx2mx_jax.shapes import Float, np

SIZE = 256  # pixels
_SCORE = '''"""Scores pairs.npz; needs MEt3R: pip install git+https://github.com/mohammadasim98/met3r"""

import json
import pathlib

import numpy
import torch
from met3r import MEt3R

here = pathlib.Path(__file__).parent
pairs, told = numpy.load(here / "pairs.npz"), json.loads((here / "pairs.json").read_text())
metric = MEt3R(img_size=256).cuda()
scores = {}
with torch.no_grad():
  for name in ("edited", "photographs"):
    rows = [metric(images=torch.tensor(x[None]).cuda())[0].item() for x in pairs[name]]
    scores[name] = rows
for pair, edited, photographs in zip(told, scores["edited"], scores["photographs"]):
  print(pair["run"], *pair["views"], f"{edited:.4f} (photographs: {photographs:.4f})")
'''


def export(runs: Sequence[Run], folder: epath.PathLike) -> str:
  """Writes every pair of views of the runs and gives the command that scores them."""
  path = epath.Path(folder).expanduser()
  path.mkdir(parents=True, exist_ok=True)
  arrays = {
    "edited": np.concatenate([_pairs(run.edited) for run in runs]),
    "photographs": np.concatenate([_pairs(run.scene.images) for run in runs]),
  }
  stream = io.BytesIO()
  np.savez_compressed(stream, **arrays)
  (path / "pairs.npz").write_bytes(stream.getvalue())
  told = [
    {"run": run.name, "views": views}
    for run in runs
    for views in itertools.combinations(run.scene.names, 2)
  ]
  (path / "pairs.json").write_text(json.dumps(told, indent=1))
  (path / "score.py").write_text(_SCORE)
  return f"python {path / 'score.py'}"


def _pairs(images: Float[np.ndarray, "N H W 3"]) -> Float[np.ndarray, "P 2 3 size size"]:
  resized = np.asarray(jax.image.resize(images, (len(images), SIZE, SIZE, 3), "cubic"))
  views = np.moveaxis(np.clip(resized, -1, 1), -1, 1)
  return np.stack([np.stack(pair) for pair in itertools.combinations(views, 2)])
