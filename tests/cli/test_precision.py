"""The default edit in bfloat16 beside the same in float32: other digits, the same pictures."""

import numpy as np
import pytest
from PIL import Image

from imx2mx_jax.main import main
from tests.cli import support

LOSS = 0.04  # root mean square of the differences between two loss curves, which vary by .036
PICTURE = 6  # the same between the pictures, of 255 levels: 32.6 dB


@pytest.mark.slow
def test_loss_curve_and_pictures_stay_near_those_of_float32(tmp_path):
  losses, drawn, pictures = [], [], []
  for dtype in ("float32", "bfloat16"):
    folder = tmp_path / dtype
    assert main(["", support.CONFIG, f"--config.run_dir={folder}", f"--config.dtype={dtype}"]) == 0
    rows = support.journal(folder)
    losses.append(np.array([row["loss"] for row in rows]))
    drawn.append([(row["tau"], row["t"], row["key_view"]) for row in rows])
    edited = sorted((folder / "edited").glob("*.png"))
    pictures.append(np.stack([np.asarray(Image.open(file), float) for file in edited]))
  rms = lambda pair: float(np.sqrt(np.square(pair[0] - pair[1]).mean()))
  assert drawn[0] == drawn[1]
  assert 0 < rms(losses) < LOSS
  assert 0 < rms(pictures) < PICTURE
