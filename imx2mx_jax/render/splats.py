"""Gaussian splats fitted to rendered frames by nerfstudio's splatfacto, which stands on gsplat."""

import shlex
import shutil
import subprocess

from etils import epath

from imx2mx_jax.errors import UserError

_FITS = "fit"


class SplatError(UserError):
  """A fit that did not end well."""


def commands(folder: epath.Path) -> tuple[list[str], list[str]]:
  """What fits splats to a rendered folder, and what writes them as a PLY file into it."""
  fit = ["ns-train", "splatfacto", "--data", str(folder), "--output-dir", str(folder / _FITS)]
  fit += ["--experiment-name", "splats", "--timestamp", "last", "--vis", "tensorboard"]
  config = folder / _FITS / "splats" / "splatfacto" / "last" / "config.yml"
  export = ["ns-export", "gaussian-splat", "--load-config", str(config)]
  return fit, [*export, "--output-dir", str(folder)]


def fit(folder: epath.Path) -> None:
  """Writes splat.ply into a rendered folder where nerfstudio and a CUDA device are at hand.

  Otherwise prints the commands that do so. Raises SplatError.
  """
  both = commands(folder)
  if not all(shutil.which(name) for name in ("ns-train", "ns-export", "nvidia-smi")):
    print("splats are fitted by nerfstudio on a CUDA device, which this machine lacks; there, run")
    for command in both:
      print(f"  {shlex.join(command)}")
    return
  for command in both:
    if code := subprocess.run(command).returncode:
      raise SplatError(f"{shlex.join(command)} ended with {code}; its output above says why")
