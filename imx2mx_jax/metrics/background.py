"""What should have stayed: PSNR and SSIM outside the region that was edited."""

import dataclasses

import cv2
from skimage.metrics import structural_similarity

from imx2mx_jax.shapes import Bool, Float, np

FEWEST = 0.02  # share of the pixels; of less background nothing can be said
_CHANGED = 0.1  # of the range of colours
_WINDOW = 7  # pixels, of SSIM


@dataclasses.dataclass(frozen=True)
class Background:
  """psnr: decibels, at most 99. ssim: at most 1. share: of the pixels, those that are edited."""

  psnr: float
  ssim: float
  share: float


def background(
  sources: Float[np.ndarray, "N H W 3"],
  edited: Float[np.ndarray, "N H W 3"],
  region: Bool[np.ndarray, "N H W"],
) -> Background | None:
  """How equal photographs and edits are outside a region; over all views together.

  sources, edited: in [-1, 1]. region: True where the edit was to be, or where it is (`changed`).
  None where less than FEWEST of the pixels is background.
  """
  kept = ~region
  if kept.mean() < FEWEST:
    return None
  error = float(np.square((sources - edited) / 2)[kept].mean())
  inner = np.stack([_eroded(view) for view in kept])
  ssim = np.stack([_ssim(*views) for views in zip(sources, edited, strict=True)])
  return Background(
    psnr=float(min(99.0, -10 * np.log10(max(error, 1e-12)))),
    ssim=float(ssim[inner if inner.any() else kept].mean()),
    share=float(region.mean()),
  )


def changed(
  sources: Float[np.ndarray, "N H W 3"], edited: Float[np.ndarray, "N H W 3"]
) -> Bool[np.ndarray, "N H W"]:
  """Where photographs and edits differ by more than a tenth of the range, and a margin around it.

  The difference is smoothed, so that grain and edges a pixel off are no region. What is left has
  a bounded difference by its making: read its PSNR together with the region's share.
  """
  side = min(sources.shape[1:3])
  margin = np.ones((2 * (side // 64) + 1,) * 2, np.uint8)
  difference = np.abs(sources - edited).mean(axis=-1).astype(np.float32) / 2
  smooth = [cv2.GaussianBlur(view, (0, 0), max(1, side / 64)) for view in difference]
  regions = [(view > _CHANGED).astype(np.uint8) for view in smooth]
  return np.stack([cv2.dilate(view, margin) for view in regions]).astype(bool)


def _ssim(
  source: Float[np.ndarray, "H W 3"], edited: Float[np.ndarray, "H W 3"]
) -> Float[np.ndarray, "H W"]:
  """The similarity at each pixel, mean over the colours; it takes light to begin at 0."""
  options = {"data_range": 1, "channel_axis": -1, "win_size": _WINDOW, "full": True}
  return structural_similarity((source + 1) / 2, (edited + 1) / 2, **options)[1].mean(axis=-1)


def _eroded(kept: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
  """Without the pixels whose window reaches into the region."""
  window = np.ones((_WINDOW, _WINDOW), np.uint8)
  return cv2.erode(kept.astype(np.uint8), window, borderValue=1).astype(bool)
