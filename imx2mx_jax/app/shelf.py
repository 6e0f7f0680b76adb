"""A scene's views to choose from: thumbnails that show which are chosen, and in which order."""

import dataclasses
import pathlib
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from imx2mx_jax.scene import FEWEST_VIEWS, MOST_VIEWS
from imx2mx_jax.shapes import UInt8, np

SIDE = 256  # pixels
_BLUE, _FRAME, _BADGE = (47, 93, 124), 10, 44  # the report's colour; pixels
_DIM = 0.55  # of the pictures that are not chosen


@dataclasses.dataclass(frozen=True)
class Shelf:
  """A scene that is open: its frames' thumbnails, and which of them are chosen, in their order.

  left: how many frames of the scene are not here.
  """

  path: pathlib.Path
  frames: tuple[int, ...]
  images: tuple[np.ndarray, ...]
  chosen: tuple[int, ...]
  left: int = 0

  def toggled(self, place: int) -> "Shelf":
    """With one more view, or one less. place: on the shelf."""
    frame = self.frames[place]
    rest = tuple(other for other in self.chosen if other != frame)
    chosen = rest if frame in self.chosen else (*rest, frame)
    return dataclasses.replace(self, chosen=chosen[:MOST_VIEWS])

  def marked(self) -> list[Image.Image]:
    """The thumbnails as they are shown."""
    places = [self.chosen.index(f) if f in self.chosen else None for f in self.frames]
    return marked(self.images, places)

  def told(self) -> str:
    """Which views are chosen, in words."""
    if len(self.chosen) < FEWEST_VIEWS:
      said = f"Choose {FEWEST_VIEWS} to {MOST_VIEWS} views by clicking them."
    else:
      said = (
        f"{len(self.chosen)} views; number 1 is the one that is edited first, and that the preview "
        "shows. Click a view to add it or to take it out."
      )
    if not self.left:
      return said
    return (
      f"{said} {self.left} more frames of the scene are not shown; the page shows those that it is "
      "begun with, `--config.scene.path=FOLDER --config.scene.frames=...`"
    )


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
