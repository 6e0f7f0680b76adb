"""In bfloat16, with float32 masters, an edit stays near the one in float32."""

import numpy as np
import pytest
from PIL import Image

from tests.cli import support


def assert_near(half, whole):
  """Bounds: gradients within a factor of 2, the losses' difference, the edited views."""
  rows = list(zip(support.journal(half), support.journal(whole), strict=True))
  for mine, theirs in rows:
    assert (mine["t"], mine["tau"], mine["key_view"], mine["skipped"]) == (
      *(theirs[name] for name in ("t", "tau", "key_view")),
      0,
    )
    assert 1 / 2 < mine["grad_norm"] / theirs["grad_norm"] < 2
    assert abs(mine["loss"] - theirs["loss"]) < 0.04
  for file in (whole / "edited").iterdir():
    pair = [np.asarray(Image.open(f / "edited" / file.name), float) for f in (half, whole)]
    difference = pair[0] - pair[1]
    assert np.abs(difference).mean() < 2.5  # of 255
    assert 10 * np.log10(255**2 / np.square(difference).mean()) > 36  # dB


@pytest.mark.slow
def test_an_edit_in_bfloat16_is_near_the_one_in_float32(finished, cache, tmp_path):
  support.ran(cache, tmp_path / "half", dtype="bfloat16")
  assert_near(tmp_path / "half", finished.folder)
