"""Which states a folder keeps."""

import contextlib

import jax.numpy as jnp
from etils import epath

from imx2mx_jax.resumable import Resumable


class Folder(Resumable):
  """Whose failures are told as they are."""

  _writing = contextlib.nullcontext


def test_the_last_states_stay_and_what_a_kill_left_half_written_goes(tmp_path):
  folder, state = Folder(epath.Path(tmp_path), 2), tmp_path / "state"
  (state / "550.orbax-checkpoint-tmp").mkdir(parents=True)
  (state / "reference.safetensors").touch()
  for step in (2, 4, 6):
    folder.save(step, {"a": jnp.zeros(3)})
  folder.settle()
  kept = {path.name for path in state.iterdir()}
  assert kept == {"4", "6", "reference.safetensors"}
