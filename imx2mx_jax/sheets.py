"""Pictures for people: PNG bytes, rows of views, labelled contact sheets."""

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from imx2mx_jax.shapes import UInt8, np

_GAP = 4  # pixels between two pictures
_LABEL = 18  # pixels of a line of text
_READABLE = 192  # pixels of a picture whose label fits below it


def png(image: UInt8[np.ndarray, "H W 3"]) -> bytes:
  """The picture as a PNG file."""
  stream = io.BytesIO()
  Image.fromarray(image).save(stream, "PNG")
  return stream.getvalue()


def grid(
  above: UInt8[np.ndarray, "N H W 3"], below: UInt8[np.ndarray, "N h w 3"]
) -> UInt8[np.ndarray, "Hg Wg 3"]:
  """Two rows of pictures on white, those above resized to the size of those below."""
  height, width = below.shape[1:3]
  resized = [np.asarray(Image.fromarray(image).resize((width, height))) for image in above]
  return np.asarray(_sheet([resized, list(below)]))


def split_grid(
  sheet: UInt8[np.ndarray, "Hg Wg 3"], views: int
) -> tuple[UInt8[np.ndarray, "N h w 3"], UInt8[np.ndarray, "N h w 3"]]:
  """The pictures above and those below, of a sheet that `grid` made."""
  height, width = (sheet.shape[0] - _GAP) // 2 - _GAP, (sheet.shape[1] - _GAP) // views - _GAP
  at = lambda row, col: sheet[_y(row, height) :, _x(col, width) :][:height, :width]
  above, below = ([at(row, col) for col in range(views)] for row in range(2))
  return np.stack(above), np.stack(below)


def contact_sheet(
  images: UInt8[np.ndarray, "rows cols H W 3"],
  labels: Sequence[Sequence[str]],
  framed: tuple[int, int] | None = None,
) -> UInt8[np.ndarray, "Hs Ws 3"]:
  """Pictures with a line of text below each; `framed` (row, column) has a red frame."""
  scale = -(-_READABLE // images.shape[3])
  images = images.repeat(scale, axis=2).repeat(scale, axis=3)
  sheet = _sheet([list(row) for row in images], _LABEL)
  draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
  height, width = images.shape[2:4]
  for row, texts in enumerate(labels):
    for col, text in enumerate(texts):
      draw.text((_x(col, width), _y(row, height, _LABEL) + height + 1), text, "black", font)
  if framed is None:
    return np.asarray(sheet)
  left, top = _x(framed[1], width) - _GAP, _y(framed[0], height, _LABEL) - _GAP
  right, bottom = left + width + 2 * _GAP - 1, top + height + _LABEL + 2 * _GAP - 1
  draw.rectangle((left, top, right, bottom), outline="red", width=_GAP - 1)
  return np.asarray(sheet)


def _sheet(rows: Sequence[Sequence[np.ndarray]], label: int = 0) -> Image.Image:
  """Equal pictures on white, with room for a line of `label` pixels below each."""
  height, width = rows[0][0].shape[:2]
  size = (_x(len(rows[0]), width), _y(len(rows), height, label))
  sheet = Image.new("RGB", size, "white")
  for row, pictures in enumerate(rows):
    for col, picture in enumerate(pictures):
      sheet.paste(Image.fromarray(picture), (_x(col, width), _y(row, height, label)))
  return sheet


def _x(col: int, width: int) -> int:
  return _GAP + col * (width + _GAP)


def _y(row: int, height: int, label: int = 0) -> int:
  return _GAP + row * (height + label + _GAP)
