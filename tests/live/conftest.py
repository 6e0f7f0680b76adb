"""Live comparisons with PyTorch's libraries; skipped, and saying so, where PyTorch is absent."""

import contextlib

import pytest


@pytest.fixture(scope="session", autouse=True)
def torch():
  """PyTorch, ready for transformers, diffusers, open_clip and kornia to be imported."""
  reason = 'PyTorch is not installed: pip install torch==2.13.0 -e ".[test,parity]"'
  torch = pytest.importorskip("torch", reason=reason)
  with contextlib.suppress(ModuleNotFoundError):
    _import_torchvision(torch)
  return torch


def _import_torchvision(torch):
  """Imports torchvision, which open_clip requires and transformers uses where it is found.

  The registry's build is for CUDA: beside a CPU build of PyTorch its operators do not load, and
  the import fails for want of the two that it describes. Nothing calls them here, so their
  declaration is enough.
  """
  try:
    import torchvision
  except RuntimeError:
    for name in ("nms", "qnms"):
      torch.library.define(
        f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
      )
    import torchvision  # noqa: F401
