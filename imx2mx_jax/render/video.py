"""Frames as videos: an MP4 that browsers play, and a GIF small enough for a web page."""

import subprocess

import imageio_ffmpeg
from etils import epath

_READABLE = 256  # pixels of the shorter side, below which frames are enlarged by whole numbers
_GIF_WIDTH, _GIF_FPS = 480, 12


def write_mp4(file: epath.Path, frames: str, fps: int, hw: tuple[int, int]) -> None:
  """H.264 with 4:2:0 colours, its index in front.

  frames: pattern of the pictures, as in "frames/%05d.png". hw: their height and width, even.
  """
  options = ["-c:v", "libx264", "-crf", "17", "-preset", "slow", "-pix_fmt", "yuv420p"]
  _ffmpeg(frames, fps, _enlarged(hw), [*options, "-movflags", "+faststart", "-f", "mp4"], file)


def write_gif(file: epath.Path, frames: str, fps: int, hw: tuple[int, int]) -> None:
  """At most 480 pixels wide and 12 frames a second; the colours that suit all of them best."""
  small = f"fps={min(fps, _GIF_FPS)},scale='min({_GIF_WIDTH},iw)':-1:flags=lanczos"
  palette = "split[frames][all];[all]palettegen[palette];[frames][palette]paletteuse"
  _ffmpeg(frames, fps, f"{_enlarged(hw)},{small},{palette}", ["-loop", "0", "-f", "gif"], file)


def _enlarged(hw: tuple[int, int]) -> str:
  times = -(-_READABLE // min(hw))
  return f"scale=iw*{times}:ih*{times}:flags=neighbor"


def _ffmpeg(frames: str, fps: int, filters: str, options: list[str], file: epath.Path) -> None:
  """OSError with ffmpeg's last words where it fails."""
  command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", "-framerate", str(fps)]
  command += ["-i", frames, "-vf", filters, *options, str(file)]
  done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
  if done.returncode:
    raise OSError(f"ffmpeg: {done.stderr.strip()}")
