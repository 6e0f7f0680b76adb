"""Depth pictures of a scene's views, for a ControlNet teacher, by a depth network in PyTorch.

    python -m imx2mx_jax.depth SCENE --out=FOLDER --frames=0,1,2,3 --size=512

FOLDER gets a PNG under each view's name, near is bright, each from black to white, as ControlNets
of depth were trained; an edit follows them by --config.teacher.condition=FOLDER. The views are cut
as an edit to --size cuts them (512, or 512x384: the teacher's size, with its width first). Needs
the extra `depth`; no edit imports PyTorch. --model is a Hugging Face id or a folder of a
transformers model of depth; the default's licence forbids commercial use, and what it asks is in
FOLDER/NOTICE. Exit codes: 0 written; 1 not, with a sentence why.
"""

import argparse
import importlib.util
import pathlib
import sys
from collections.abc import Callable, Sequence

from PIL import Image

from imx2mx_jax import config, pictures, remote, scene, sheets, terminal
from imx2mx_jax.errors import SceneError, WeightsError
from imx2mx_jax.shapes import Float, UInt8, np

MODEL = "depth-anything/Depth-Anything-V2-Base-hf"
_TERMS = "CC-BY-NC-4.0: research and non-commercial use only, with the name of its authors"

Network = Callable[[Image.Image], Float[np.ndarray, "h w"]]
"""Of a picture, how near each part is, at any size."""


def main(argv: Sequence[str]) -> int:
  """Writes one folder; `argv` is the command line without the program's name."""
  args = _parse(argv)
  return terminal.exit_code(lambda: _estimate(args))


def _estimate(args: argparse.Namespace) -> int:
  views = scene.load_scene(args.scene, config.frame_names(args.frames), size=args.size)
  files = [args.out / f"{pathlib.Path(name).stem}.png" for name in views.names]
  if args.out.exists() and not args.out.is_dir():
    raise SceneError(f"--out={args.out}: is a file; name a folder")
  network = load(args.model)
  try:
    for image, file in zip(pictures.to_uint8(views.images), files, strict=True):
      remote.write_bytes(file, sheets.png(depth_picture(network, image)))
      print(file, flush=True)
    notice = f"depth by {args.model}\n{_terms(args.model)}\n"
    remote.write_bytes(args.out / "NOTICE", notice.encode())
  except OSError as error:
    raise SceneError(
      f"--out={args.out}: cannot be written ({error.strerror or error}); name another folder"
    ) from error
  print(args.out)
  return 0


def load(model: str) -> Network:
  """The network of a Hugging Face id or a folder. Raises: WeightsError."""
  if importlib.util.find_spec("torch") is None:
    raise WeightsError(
      'PyTorch is not there; pip install "imx2mx_jax[depth]", or give an edit depth of another '
      "origin by --config.teacher.condition: the scene's own, or a folder of pictures"
    )
  from transformers import pipeline

  try:
    estimate = pipeline("depth-estimation", model=model)
  except (OSError, ValueError, KeyError) as error:
    reason = str(error).strip().partition("\n")[0]
    raise WeightsError(
      f"--model={model}: it is no model of depth that transformers can load ({reason}); give "
      f"another one, or a folder that holds {MODEL}"
    ) from None
  return lambda image: estimate(image)["predicted_depth"].float().cpu().numpy()


def depth_picture(
  network: Network, image: UInt8[np.ndarray, "H W 3"]
) -> UInt8[np.ndarray, "H W 3"]:
  """The nearest part white, the farthest black, of the picture's size."""
  near = network(Image.fromarray(image)).astype(np.float32)
  spread = (near - near.min()) / max(float(np.ptp(near)), 1e-12)
  resized = Image.fromarray(spread).resize(image.shape[1::-1], Image.Resampling.BICUBIC)
  levels = np.clip(np.asarray(resized) * 255, 0, 255).astype(np.uint8)
  return np.repeat(levels[..., None], 3, axis=2)


def _terms(model: str) -> str:
  return _TERMS if model == MODEL else "its licence: see where it came from"


def _size(text: str) -> tuple[int, int]:
  """(height, width) of "512x384", or a square's side."""
  sides = text.split("x")
  if len(sides) > 2 or not all(side.isdecimal() and int(side) for side in sides):
    raise argparse.ArgumentTypeError(f"{text!r} is not a size, as in 512 or 512x384")
  width, height = int(sides[0]), int(sides[-1])
  return height, width


def _parse(argv: Sequence[str]) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    "python -m imx2mx_jax.depth",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("scene", help="folder with the photographs and their cameras")
  parser.add_argument(
    "--out", type=pathlib.Path, required=True, help="folder of the depth pictures"
  )
  parser.add_argument("--frames", default="", help="as --config.scene.frames; default: all")
  parser.add_argument("--size", type=_size, default=(512, 512), help="512 or 512x384")
  parser.add_argument("--model", default=MODEL, help=f"default: {MODEL}")
  return parser.parse_args(argv)


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
