"""Measures a finished run and writes metrics.json into its folder.

    clip        model, sim, dir, cons, and the captions that they were measured with
    epipolar    pairs (views, matches, median_sed, floor: pixels), median and median_floor over
                the pairs (null: most have too few matches left), passing and floor_passing: the
                share of the pairs below 2, 4, 8 pixels
    warp        mean, floor: colour difference in [0, 1]; map: a picture of it, brightest from
                `brightest` on
    background  psnr, ssim outside the region that changed; share: of the pixels, the region's
    controls    {measure: what it says of pictures about which there is no doubt}
    absent      {measure: why it is not there}

A floor is what the photographs themselves have. An epipolar or warp error that does not rank its
controls on this scene is absent: it would not measure consistency, which the others do not claim.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import cv2
from etils import epath

from imx2mx_jax import masks, pictures, sheets, tokenizer, weights
from imx2mx_jax.errors import ConfigError, RunFolderError, UserError
from imx2mx_jax.evaluate import runs
from imx2mx_jax.evaluate.runs import Captions, Run
from imx2mx_jax.metrics import background, clip_scores, controls, epipolar, warp
from imx2mx_jax.scene import load_depth
from imx2mx_jax.shapes import Float, UInt8, np

WARP_MAP = "warp.png"
_BRIGHTEST = 0.25  # of the range of colours: the error at which the map ends
_DARKEST = 0.35  # where the map's colours begin: below that they are black
_GREY = 0.7  # of their brightness, that views keep under the map
_UNSEEN = 32  # of 255: grey where nothing was compared
_CLIP = "weights/metric_clip"


class NotMeasured(UserError):
  """What a measure needs and does not have."""


@dataclasses.dataclass(frozen=True)
class Options:
  """What the person says beside the run. "" leaves it to the run.

  clip: a converted metric_clip. mask: as --config.mask, white where the edit was to be.
  """

  captions: Captions = Captions()
  clip: str = ""
  mask: str = ""


_AS_THE_RUN_SAYS = Options()


@dataclasses.dataclass(frozen=True)
class _Measured:
  """A section of metrics.json, and whether the measure ranks its controls.

  judged: {measure: what it says of the controls}. picture: what the section's "map" names.
  """

  values: dict[str, Any]
  judged: dict[str, dict[str, float | None]]
  ranks: bool = True
  picture: UInt8[np.ndarray, "H W 3"] | None = None


def measure(run: Run, options: Options = _AS_THE_RUN_SAYS) -> dict[str, Any]:
  """Measures a run, writes metrics.json and the map of the warp error, and gives the former.

  Raises RunFolderError where they cannot be written, and ConfigError for a caption in the options
  that CLIP cannot read; what was measured before stays then.
  """
  found, judged, absent = {}, {}, {}
  for name, take in _MEASURES.items():
    try:
      result = take(run, options)
    except UserError as error:
      if isinstance(error, ConfigError) and options.captions.known:
        raise
      absent[name] = str(error)
      continue
    judged |= result.judged
    if not result.ranks:
      absent[name] = "on this scene it does not tell the photographs from pictures that do not fit"
      continue
    found[name] = result.values
    if result.picture is not None:
      _write(run.path / result.values["map"], sheets.png(result.picture))
  metrics = _plain(found | {"controls": judged, "absent": absent})
  text = json.dumps(metrics, indent=1, ensure_ascii=False) + "\n"
  _write(run.path / runs.METRICS, text.encode())
  return metrics


def _write(file: epath.Path, content: bytes) -> None:
  try:
    file.write_bytes(content)
  except OSError as error:
    raise RunFolderError(
      f"{file} cannot be written ({error.strerror}); measure a copy of the run's folder"
    ) from error


def _clip(run: Run, options: Options) -> _Measured:
  told = options.captions.filled_by(runs.captions(run))
  if not told.known:
    raise NotMeasured(
      "what the pictures show before and after is not known; give --source_caption=... and "
      "--edited_caption=... to python -m imx2mx_jax.evaluate"
    )
  folder = options.clip or run.settings.get("metric_clip") or _CLIP
  info = weights.read_info(folder, "metric_clip")
  clip = weights.load(folder, "metric_clip")["clip"]
  words = tokenizer.load(weights.tokenizer_of(folder))
  scores = lambda sources, edited: clip_scores.clip_scores(
    clip, words, sources, edited, told.source, told.edited
  )
  few = run.scene.images[: controls.MOST_VIEWS]
  said = {name: scores(few, images) for name, images in controls.control_views(few).items()}
  judged = {
    f"clip.{score}": {name: values[score] for name, values in said.items()}
    for score in ("cons", "sim", "dir")
  }
  captions = {"source_caption": told.source, "edited_caption": told.edited}
  model = {"model": info.source.split("@")[0]}
  return _Measured(model | scores(run.scene.images, run.edited) | captions, judged)


def _epipolar(run: Run, options: Options) -> _Measured:
  scene = run.scene
  cameras = (scene.c2w, scene.K)
  floors = epipolar.floors(pictures.to_uint8(scene.images), *cameras)
  if not floors:
    raise NotMeasured("the photographs have too few points in common to tell (SIFT)")
  pairs = epipolar.epipolar(pictures.to_uint8(run.edited), floors, *cameras)
  few = slice(controls.MOST_VIEWS)
  of_few = epipolar.floors_among(floors, controls.MOST_VIEWS)
  cameras_of_few = (scene.c2w[few], scene.K[few])
  error = lambda images: epipolar.median_error(
    epipolar.epipolar(pictures.to_uint8(images), of_few, *cameras_of_few)
  )
  judged = controls.judged(error, controls.control_views(scene.images[few]))
  values = {
    "pairs": [dataclasses.asdict(pair) for pair in pairs],
    "median": epipolar.median_error(pairs),
    "median_floor": epipolar.median_floor(pairs),
    "passing": epipolar.passing(pairs),
    "floor_passing": epipolar.floor_passing(pairs),
  }
  return _Measured(values, {"epipolar": judged}, controls.errors_rank(judged))


def _warp(run: Run, options: Options) -> _Measured:
  scene = run.scene
  depth = load_depth(scene, run.edited.shape[1:3])
  if depth is None:
    raise NotMeasured("the scene's depth is not known (its frames have no depth_file_path)")
  error = lambda images: warp.warp_errors(
    images, *(x[: len(images)] for x in (depth, scene.c2w, scene.K))
  )
  floor, found = error(scene.images), error(run.edited)
  if not (floor.share > 0).any():
    raise NotMeasured("no two views see the same part of the scene")
  few = scene.images[: controls.MOST_VIEWS]
  judged = controls.judged(lambda images: error(images).mean, controls.control_views(few))
  values = {"mean": found.mean, "floor": floor.mean, "map": WARP_MAP, "brightest": _BRIGHTEST}
  ranks, heat = controls.errors_rank(judged), _heat(run.edited, found.maps)
  return _Measured(values, {"warp": judged}, ranks, heat)


def _background(run: Run, options: Options) -> _Measured:
  if mask := options.mask or run.settings.get("mask", ""):
    region = masks.masked(run.scene, mask, **run.reading).masks
  else:
    region = background.changed(run.scene.images, run.edited)
  found = background.background(run.scene.images, run.edited, region)
  if found is None:
    raise NotMeasured("the pictures changed everywhere: there is no background")
  few = run.scene.images[: controls.MOST_VIEWS]

  def psnr(images: Float[np.ndarray, "N H W 3"]) -> float | None:
    kept = background.background(few, images, region[: len(few)])
    return kept and kept.psnr

  judged = controls.judged(psnr, controls.control_views(few))
  return _Measured(dataclasses.asdict(found), {"background": judged})


_MEASURES: Mapping[str, Callable[[Run, Options], _Measured]] = {
  "clip": _clip,
  "epipolar": _epipolar,
  "warp": _warp,
  "background": _background,
}


def _heat(
  images: Float[np.ndarray, "N H W 3"], maps: Float[np.ndarray, "N N H W"]
) -> UInt8[np.ndarray, "S NS 3"]:
  """The views in grey side by side, each pixel's mean error laid over; flat where none sees it."""
  seen = np.isfinite(maps)
  count = seen.sum(axis=1)
  error = np.where(seen, maps, 0).sum(axis=1) / np.maximum(count, 1)
  levels = np.clip(error / _BRIGHTEST, 0, 1)
  steps = np.rint((_DARKEST + (1 - _DARKEST) * levels) * 255).astype(np.uint8)
  colors = np.stack([cv2.applyColorMap(view, cv2.COLORMAP_INFERNO)[..., ::-1] for view in steps])
  grey = pictures.to_uint8(images).mean(axis=-1, keepdims=True) * _GREY
  opaque = np.sqrt(levels)[..., None]  # a small error shows already
  views = np.where(count[..., None] > 0, opaque * colors + (1 - opaque) * grey, _UNSEEN)
  return np.concatenate(np.rint(views).astype(np.uint8), axis=1)


def _plain(value: Any) -> Any:
  """What JSON knows: numbers to six digits, null where there is none."""
  if isinstance(value, Mapping):
    return {str(key): _plain(one) for key, one in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(one) for one in value]
  if isinstance(value, float):
    return float(f"{value:.6g}") if math.isfinite(value) else None
  return value
