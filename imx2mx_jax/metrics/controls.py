"""Controls: what a measure of consistency says of pictures about which there is no doubt.

The photographs are consistent. One picture shown in every view, views of different scenes and noise
are not. A measure that does not find them clearly worse measures something else on this scene: its
pictures may be too small, its cameras too near to each other, or the measure no good.
"""

from collections.abc import Callable, Mapping

import cv2
import skimage.data

from imx2mx_jax import cameras
from imx2mx_jax.shapes import Float, np

PHOTOGRAPHS = "photographs"
_CLEARLY = 1.5  # times worse
_STRANGERS = ("astronaut", "chelsea", "coffee", "rocket", "coins", "camera", "gravel", "page")
MOST_VIEWS = len(_STRANGERS)


def control_views(
  sources: Float[np.ndarray, "N H W 3"],
) -> dict[str, Float[np.ndarray, "N H W 3"]]:
  """{name: pictures in [-1, 1]} of the size and number of the photographs, MOST_VIEWS at most."""
  count, hw = len(sources), sources.shape[1:3]
  noise = np.random.default_rng(0).uniform(-1, 1, sources.shape).astype(np.float32)
  return {
    PHOTOGRAPHS: sources,
    "identical views": np.repeat(sources[:1], count, axis=0),
    "different scenes": np.stack([_stranger(name, hw) for name in _STRANGERS[:count]]),
    "noise": noise,
  }


def judged(
  measure: Callable[[Float[np.ndarray, "N H W 3"]], float | None],
  views: Mapping[str, Float[np.ndarray, "N H W 3"]],
) -> dict[str, float | None]:
  """{control: what a measure says of it}; None where it says nothing."""
  return {name: measure(images) for name, images in views.items()}


def errors_rank(values: Mapping[str, float | None]) -> bool:
  """Whether an error is clearly larger for every control than for the photographs.

  values: as `judged` gives them; None (too few matches, say) is an infinite error.
  """
  best = values[PHOTOGRAPHS]
  if best is None:
    return False
  others = [value for name, value in values.items() if name != PHOTOGRAPHS]
  return all(value is None or value > _CLEARLY * best for value in others)


def _stranger(name: str, hw: tuple[int, int]) -> Float[np.ndarray, "H W 3"]:
  """One of scikit-image's pictures, as if it were a photograph of the scene."""
  pixels = getattr(skimage.data, name)()
  if pixels.ndim == 2:
    pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
  return cameras.resize_and_crop(pixels.astype(np.float32) / 127.5 - 1, hw)[0]
