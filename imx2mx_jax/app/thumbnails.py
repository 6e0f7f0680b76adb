"""Thumbnails of a scene's views that show which of them are chosen, and in which order."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from imx2mx_jax.shapes import UInt8, np

SIDE = 256  # pixels
_BLUE, _FRAME, _BADGE = (47, 93, 124), 10, 44  # the report's colour; pixels
_DIM = 0.55  # of the pictures that are not chosen


def marked(
  images: Sequence[UInt8[np.ndarray, "H W 3"]], chosen: Sequence[int | None]
) -> list[Image.Image]:
  """The pictures on squares; a chosen one has a frame and its number, from 1, the others are dim.

  chosen: each picture's place in the order, from 0, or None.
  """
  return [_marked(image, place) for image, place in zip(images, chosen, strict=True)]


def _marked(image: np.ndarray, place: int | None) -> Image.Image:
  picture = Image.fromarray(image)
  factor = SIDE / max(picture.size)
  picture = picture.resize([max(1, round(side * factor)) for side in picture.size])
  square = Image.new("RGB", (SIDE, SIDE), (128, 128, 128))
  square.paste(picture, [(SIDE - side) // 2 for side in picture.size])
  if place is None:
    return Image.blend(Image.new("RGB", square.size, (128, 128, 128)), square, _DIM)
  draw = ImageDraw.Draw(square)
  draw.rectangle((0, 0, SIDE - 1, SIDE - 1), outline=_BLUE, width=_FRAME)
  draw.rectangle((0, 0, _BADGE, _BADGE), fill=_BLUE)
  middle = (_BADGE / 2, _BADGE / 2)
  draw.text(middle, str(place + 1), "white", ImageFont.load_default(26), anchor="mm")
  return square
