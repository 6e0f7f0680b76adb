"""What follows an edit can fail without the edit."""

import contextlib
import json
import types

import jax
import numpy as np
import pytest
from etils import epath

from imx2mx_jax import config, edit, run_folder, session, terminal
from imx2mx_jax.errors import ConfigError, DivergedError
from tests.evaluate.support import SCENE, finished, views


@pytest.fixture
def edited(tmp_path, monkeypatch):
  """A session whose edit has just ended, in this folder."""
  folder = finished(tmp_path / "run", views(SCENE / "edited" / "make-it-sunset"))
  opened = contextlib.nullcontext(types.SimpleNamespace(path=epath.Path(folder)))
  monkeypatch.setattr(run_folder, "opened", lambda run: opened)
  monkeypatch.setattr(session, "_edit", lambda *_: ended(True))
  return folder


def ended(whole):
  """An edit that pauses for nobody; whole: whether it was not stopped."""
  yield from ()
  return whole


def test_a_run_ends_with_its_measures(edited, capsys):
  session.edit_scene(config.RunConfig(), terminal.Stop())
  assert json.loads((edited / "metrics.json").read_text())["warp"]["mean"] < 0.02
  assert "warp" in capsys.readouterr().out


def test_an_edit_that_cannot_be_measured_is_done_all_the_same(edited, capsys):
  (edited / "edited" / "002.png").write_bytes(b"no picture")
  session.edit_scene(config.RunConfig(), terminal.Stop())
  told = capsys.readouterr().out
  assert f"python -m imx2mx_jax.evaluate {edited} tries again" in told


def test_a_stopped_run_is_not_measured(edited, monkeypatch):
  monkeypatch.setattr(session, "_edit", lambda *_: ended(False))
  session.edit_scene(config.RunConfig(), terminal.Stop())
  assert not (edited / "metrics.json").exists()


def test_views_that_are_no_numbers_are_no_edit():
  with pytest.raises(DivergedError, match="folder: the edited views are not finite; start anew"):
    edit._refuse_infinite(config.RunConfig(run_dir="folder"), np.full((1, 2, 2, 4), np.nan))


def test_a_device_without_memory_is_told_in_a_sentence():
  def events(message):
    yield "prepared"
    raise jax.errors.JaxRuntimeError(message)

  run = config.RunConfig()
  with pytest.raises(ConfigError, match=r"memory=default: .* \(RESOURCE_EXHAUSTED: 9 GB\); "):
    list(session._fitting(run, events("RESOURCE_EXHAUSTED: 9 GB\nand much more")))
  with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
    list(session._fitting(run, events("INTERNAL: something else")))
