"""Checkpoints that are written while their arrays are given away."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging

from imx2mx_jax import checkpoint


@functools.partial(jax.jit, donate_argnums=0)
def next_step(arrays):
  return jax.tree.map(lambda x: x * 0 - 1, arrays)


def test_what_is_being_saved_may_be_given_away(tmp_path):
  arrays = {f"layer/{i}": jnp.arange(2.0**18) + i for i in range(8)}
  wanted = jax.device_get(jax.tree.map(jnp.copy, arrays))
  saving = checkpoint.begin(tmp_path / "state", arrays)
  jax.block_until_ready(next_step(arrays))
  saving.wait()
  held = checkpoint.restore(tmp_path / "state", checkpoint.contents(tmp_path / "state"))
  assert held.keys() == wanted.keys()
  for path, array in wanted.items():
    assert np.array_equal(held[path], array), path


def test_a_folder_appears_when_it_is_whole(tmp_path):
  arrays = {f"layer/{i}": jnp.arange(2.0**20) + i for i in range(8)}
  saving = checkpoint.begin(tmp_path / "state", arrays)
  if (tmp_path / "state").exists():  # written already
    assert checkpoint.contents(tmp_path / "state").keys() == arrays.keys()
  saving.wait()
  assert checkpoint.contents(tmp_path / "state").keys() == arrays.keys()


def test_orbax_speaks_again_when_all_that_was_begun_is_written(tmp_path):
  before = logging.get_verbosity()
  savings = [checkpoint.begin(tmp_path / name, {"a": jnp.zeros(3)}) for name in "ab"]
  for saving in savings:
    saving.wait()
  assert logging.get_verbosity() == before


def test_after_failures_errors_are_told_as_before_them(tmp_path):
  hook = sys.unraisablehook
  for _ in range(2):
    with pytest.raises(checkpoint.CheckpointError):
      checkpoint.restore(tmp_path / "nothing", {"x": jax.ShapeDtypeStruct((1,), np.float32)})
  checkpoint.save(tmp_path / "something", {"x": np.zeros(1, np.float32)})
  assert sys.unraisablehook is hook
