"""Epipolar errors where they are: points that two edited views share, joined by lines."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from imx2mx_jax import matches
from imx2mx_jax.report.measures import Pair
from imx2mx_jax.report.runs import Run
from imx2mx_jax.scene import load_scene
from imx2mx_jax.shapes import Float, UInt8, np

LEGEND = {2: "#6cc4ff", 8: "#ffc247", np.inf: "#ff4f4f"}
"""{pixels of epipolar error up to which a line has it: colour}."""

_MOST = 60  # lines in a picture


def draw(run: Run, pairs: Sequence[Pair]) -> list[UInt8[np.ndarray, "H W2 3"]]:
  """For each pair both edited views side by side, with their matches; none without cameras.

  The cameras are those of the run folder's transforms.json. Raises SceneError where it is damaged.
  """
  if not pairs or not (run.path / "transforms.json").exists():
    return []
  scene = load_scene(run.path, size=run.edits.shape[1:3])
  pixels = scene.K * np.array([run.edits.shape[2], run.edits.shape[1], 1])[:, None]
  shown = {view for pair in pairs for view in pair.views}
  features = {view: matches.sift_features(run.edits[view], matches.OF_AN_EDIT) for view in shown}
  pictures = []
  for pair in pairs:
    a, b = pair.views
    points = matches.match(features[a], features[b])
    errors = matches.epipolar_errors(points, scene.c2w[[a, b]], pixels[[a, b]])
    pictures.append(_joined(run.edits[[a, b]], points, errors))
  return pictures


def _joined(
  views: UInt8[np.ndarray, "2 H W 3"],
  points: Float[np.ndarray, "2 M 2"],
  errors: Float[np.ndarray, " M"],
) -> UInt8[np.ndarray, "H W2 3"]:
  picture = Image.fromarray(np.concatenate(views, axis=1))
  draw = ImageDraw.Draw(picture)
  first, second = points + np.array([[[0, 0]], [[views.shape[2], 0]]])
  for i in range(0, len(errors), -(-len(errors) // _MOST) or 1):
    colour = next(colour for most, colour in LEGEND.items() if not errors[i] > most)
    draw.line([*first[i], *second[i]], fill=colour, width=max(1, views.shape[2] // 400))
  return np.asarray(picture)
