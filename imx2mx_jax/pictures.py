"""Pictures on their way to the teacher and back: float32, in [-1, 1].

By default they are resized in floats and never rounded. `authors=True` sends them through 8 bits,
as the authors' program does (golden/README.md, section 15 and quirks 5 to 7).
"""

import jax
import jax.numpy as jnp
from PIL import Image

from imx2mx_jax.shapes import Array, Float, Size, UInt8, height_width, np


def teacher_source(
  images: Float[np.ndarray | Array, "N H W 3"], size: Size, *, authors: bool = False
) -> Float[np.ndarray | Array, "N h w 3"]:
  """The source views at the teacher's size.

  authors: truncated to 8 bits, resized bicubically in 8 bits.
  """
  if not authors:
    return _resize(images, size)
  resized = [_resize_8_bits(image, size) for image in truncate_to_8_bits(images)]
  return from_8_bits(np.stack(resized))


def edit_source(
  image: Float[np.ndarray | Array, "H W 3"], size: Size, *, authors: bool = False
) -> Float[np.ndarray | Array, "h w 3"]:
  """The reference view at the teacher's size, as the editing pipeline gets it.

  authors: resized bilinearly without antialias, rounded to float16 and truncated to 8 bits.
  """
  if not authors:
    return _resize(image[None], size)[0]
  resized = jax.image.resize((image + 1) / 2, (*height_width(size), 3), "bilinear", antialias=False)
  half = np.asarray(resized, np.float16)
  return from_8_bits((half * np.float16(255)).astype(np.uint8))


def enlarge_reference(
  edited: Float[np.ndarray | Array, "H W 3"], size: Size, *, authors: bool = False
) -> Float[np.ndarray | Array, "h w 3"]:
  """The edited reference at the student's size, which is at least the teacher's.

  authors: rounded to 8 bits and enlarged bilinearly with 14 bit weights, each axis rounded.
  """
  if not authors:
    return _resize(edited[None], size)[0]
  picture = np.rint((np.asarray(edited) + 1) * 127.5).astype(np.int32)
  height, width = height_width(size)
  rows = _enlarge_rows_8_bits(picture.swapaxes(0, 1), width).swapaxes(0, 1)
  return from_8_bits(_enlarge_rows_8_bits(rows, height).astype(np.uint8))


def truncate_to_8_bits(
  images: Float[np.ndarray | Array, "*N H W 3"],
) -> UInt8[np.ndarray, "*N H W 3"]:
  """[-1, 1] -> 0 to 255, cut off rather than rounded, as the authors' program does (quirk 5)."""
  return ((np.asarray(images) + 1) / 2 * 255).astype(np.uint8)


def to_uint8(images: Float[np.ndarray | Array, "*N H W 3"]) -> UInt8[np.ndarray, "*N H W 3"]:
  """[-1, 1] -> 0 to 255, clipped and rounded: what is written to disk."""
  return np.rint(np.clip((np.asarray(images) + 1) * 127.5, 0, 255)).astype(np.uint8)


def from_8_bits(images: UInt8[np.ndarray, "*N H W 3"]) -> Float[np.ndarray, "*N H W 3"]:
  """0 to 255 -> [-1, 1]."""
  return np.asarray(images, np.float32) / 255 * 2 - 1


def _resize(images: np.ndarray | Array, size: Size) -> Array:
  shape = (len(images), *height_width(size), 3)
  return jnp.clip(jax.image.resize(images, shape, "cubic"), -1, 1)


def _resize_8_bits(image: np.ndarray, size: Size) -> np.ndarray:
  wanted = height_width(size)[::-1]
  return np.asarray(Image.fromarray(image).resize(wanted, Image.Resampling.BICUBIC))


def _enlarge_rows_8_bits(picture: np.ndarray, size: int) -> np.ndarray:
  old, bits = len(picture), 14
  position = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
  upper = position.astype(np.int32)
  lower = np.minimum(upper + 1, old - 1)
  share = (position - upper)[:, None, None]
  weigh = lambda share: np.floor(share * 2**bits + 0.5).astype(np.int32)
  total = picture[upper] * weigh(1 - share) + picture[lower] * weigh(share)
  return (total + 2 ** (bits - 1)) >> bits
