"""Random weights for PyTorch's models, and their way through the shipped conversion tables."""

import json
import pathlib

import numpy as np
from safetensors.numpy import load_file

from convert_weights import names
from imx2mx_jax.models.network import Network, abstract
from tests.golden import support


def randomise(model, seed: int = 0):
  """Fills a PyTorch model so that every parameter matters and activations stay near one."""
  import torch

  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      parameter.normal_(generator=generator)
      if parameter.ndim >= 2:
        parameter /= parameter[0].numel() ** 0.5
      else:
        parameter.mul_(0.1).add_(1.0 if name.endswith("weight") else 0.0)
  return model.eval()


def converted(cls, table, folder: pathlib.Path) -> Network:
  """The network in a folder with one JSON file (its config) and one safetensors file."""
  (config,), (weights,) = folder.glob("*.json"), folder.glob("*.safetensors")
  network = abstract(cls, table.shape(json.loads(config.read_text())))
  tensors = load_file(weights)
  rows = names.plan(
    {path: leaf.shape for path, leaf in network.params.items()},
    {name: tensor.shape for name, tensor in tensors.items()},
    table.DIALECTS,
  )
  return Network(network.graphdef, dict(names.convert(rows, tensors.__getitem__)))


def assert_equal(ours, theirs, what: str = ""):
  """Equal within 1e-5 of the largest element of theirs, a PyTorch tensor in our layout."""
  theirs = theirs.detach().numpy()
  support.assert_close(ours, theirs, atol=1e-5 * np.abs(theirs).max(), what=what)
