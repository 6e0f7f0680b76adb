"""The folder of one rendering, and how one that was stopped goes on.

    frames/00000.png ..  the views along the path
    transforms.json      their cameras, as nerfstudio reads them (OpenGL axes)
    video.mp4, .gif      H.264, which browsers play; small, for web pages
    render.json          the settings, and fingerprints of what was read
    NOTICE               whose weights these are and what their licences ask
    state/               the anchors of a first pass, from which a stopped rendering goes on

Every file appears whole or not at all. What cannot be written or resumed is a RunFolderError.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from imx2mx_jax import checkpoint, paths, pictures, remote, sheets, weights
from imx2mx_jax.errors import RunFolderError
from imx2mx_jax.render import video
from imx2mx_jax.render.inputs import Inputs
from imx2mx_jax.render.settings import RenderConfig
from imx2mx_jax.resumable import Resumable, read_json
from imx2mx_jax.scene import OPENGL_TO_OPENCV
from imx2mx_jax.shapes import UInt8, np

_SETTINGS, _FRAMES = "render.json", "frames/%05d.png"
_FREE = ("source", "models", "fps", "export", "out")  # that change no frame, or count by content


class RenderFolder(Resumable):
  """Writes one rendering of `path` from `inputs`; begins it, or goes on with it.

  where: the folder; `path` is it too, or the copy of one in a bucket, which `settle` brings there.
  Raises RunFolderError where the folder holds a rendering with other settings, or something else.
  """

  def __init__(self, wanted: RenderConfig, inputs: Inputs, path: paths.Cameras):
    default = (
      f"{inputs.out}{wanted.path_name}"
      if inputs.out.endswith("/")
      else (f"{inputs.out}-{wanted.path_name}")
    )
    self.where = epath.Path(wanted.out or default).expanduser()
    self._copy = remote.Copy(self.where) if remote.is_remote(self.where) else None
    if self._copy:
      self._copy.fetch()
    super().__init__(epath.Path(self._copy.path) if self._copy else self.where, save_every=1)
    self._wanted, self._cameras, self._hw = wanted, path, inputs.hw
    self._begin(inputs)

  def done(self) -> set[int]:
    """The frames that are written."""
    return {frame for frame in range(len(self._cameras[0])) if (self.path / _name(frame)).exists()}

  def write_frames(self, frames: Sequence[int], images: UInt8[np.ndarray, "F H W 3"]) -> None:
    """Writes some of the frames."""
    with self._writing():
      for frame, image in zip(frames, images, strict=True):
        self._write(_name(frame), sheets.png(image))

  def settle(self) -> None:
    """Waits for what is being saved, and for the bucket."""
    super().settle()
    if self._copy:
      self._copy.push()

  def finish(self) -> None:
    """Writes the cameras and the videos, once all frames are there."""
    with self._writing():
      self._write("transforms.json", _json(transforms(self._cameras, self._hw)))
      for name, write in (("video.mp4", video.write_mp4), ("video.gif", video.write_gif)):
        temporary = self.path / f".{name}.tmp"
        write(temporary, str(self.path / _FRAMES), self._wanted.fps, self._hw)
        temporary.replace(self.path / name)

  def _begin(self, inputs: Inputs) -> None:
    settings = {
      name: value for name, value in dataclasses.asdict(self._wanted).items() if name not in _FREE
    }
    stated = {"settings": settings, "read": _fingerprints(inputs, self._cameras)}
    file = self.path / _SETTINGS
    if self.path.exists() and not self.path.is_dir():
      raise RunFolderError(f"{self.path} is a file, no folder; choose another one with --out=...")
    if file.exists():
      self._refuse_other(read_json(file), stated)
    elif self.path.exists() and any(not x.name.startswith(".") for x in self.path.iterdir()):
      raise RunFolderError(f"{self.path} holds other things; choose another folder with --out=...")
    with self._writing():
      self._write(_SETTINGS, _json(stated))
      self._write("NOTICE", _notice(inputs).encode())

  def _refuse_other(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for group in now:
      for name, value in now[group].items():
        if (was := before.get(group, {}).get(name)) == value:
          continue
        differs = f"--{name} was {was}" if group == "settings" else f"{name} had other contents"
        raise RunFolderError(
          f"{self.path} holds frames of another rendering ({differs}); choose another folder with "
          "--out=..., or delete this one"
        )

  @contextlib.contextmanager
  def _writing(self) -> Iterator[None]:
    try:
      yield
    except (OSError, checkpoint.CheckpointError) as error:
      full = "No space left" in str(error)
      way = "free some space, then the same command goes on" if full else "choose another --out="
      reason = getattr(error, "strerror", None) or error
      raise RunFolderError(f"{self.path} cannot be written ({reason}); {way}") from error


def transforms(path: paths.Cameras, hw: tuple[int, int]) -> dict[str, Any]:
  """What transforms.json says: pinhole cameras, in the units and axes of the inputs' file."""
  height, width = hw
  return {
    "camera_model": "OPENCV",
    "w": width,
    "h": height,
    **dict.fromkeys(("k1", "k2", "p1", "p2"), 0.0),
    "frames": [
      {
        "file_path": _name(frame),
        "fl_x": K[0, 0] * width,
        "fl_y": K[1, 1] * height,
        "cx": K[0, 2] * width,
        "cy": K[1, 2] * height,
        "transform_matrix": (c2w * OPENGL_TO_OPENCV).tolist(),
      }
      for frame, (c2w, K) in enumerate(zip(*path, strict=True))
    ],
  }


def _name(frame: int) -> str:
  return _FRAMES % frame


def _fingerprints(inputs: Inputs, path: paths.Cameras) -> dict[str, str]:
  read = {"the views": pictures.to_uint8(inputs.images).tobytes() + inputs.c2w.tobytes()}
  read["the path's cameras"] = path[0].tobytes() + path[1].tobytes()
  for kind, folder in dataclasses.asdict(inputs.weights).items():
    read[kind] = (epath.Path(folder) / weights.INFO).read_bytes()
  return {name: hashlib.sha256(content).hexdigest() for name, content in read.items()}


def _notice(inputs: Inputs) -> str:
  parts = ["The pictures in this folder were made with these models.\n"]
  for kind, folder in dataclasses.asdict(inputs.weights).items():
    info = weights.read_info(folder, kind)
    parts.append(f"{kind}: {info.source}\nlicence: {info.licence}\n{info.terms}\n{info.notice}\n")
  return "\n".join(parts)


def _json(content: Any) -> bytes:
  return (json.dumps(content, indent=1) + "\n").encode()
