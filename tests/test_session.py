"""What follows an edit can fail without the edit."""

import json

import jax
import pytest
from etils import epath

from imx2mx_jax import config, session, terminal
from imx2mx_jax.errors import ConfigError
from tests.evaluate.support import SCENE, finished, views


@pytest.fixture
def edited(tmp_path, monkeypatch):
  """A session whose edit has just ended, in this folder."""
  folder = finished(tmp_path / "run", views(SCENE / "edited" / "make-it-sunset"))
  monkeypatch.setattr(session, "_edit", lambda *_: epath.Path(folder))
  return folder


def test_a_run_ends_with_its_measures(edited, capsys):
  assert session.edit_scene(config.RunConfig(), terminal.Stop()) == epath.Path(edited)
  assert json.loads((edited / "metrics.json").read_text())["warp"]["mean"] < 0.02
  assert "warp" in capsys.readouterr().out


def test_an_edit_that_cannot_be_measured_is_done_all_the_same(edited, capsys):
  (edited / "edited" / "002.png").write_bytes(b"no picture")
  assert session.edit_scene(config.RunConfig(), terminal.Stop()) == epath.Path(edited)
  told = capsys.readouterr().out
  assert f"python -m imx2mx_jax.evaluate {edited} tries again" in told


def test_a_stopped_run_is_not_measured(edited):
  stop = terminal.Stop()
  stop.obeyed = True
  session.edit_scene(config.RunConfig(), stop)
  assert not (edited / "metrics.json").exists()


def test_a_device_without_memory_is_told_in_a_sentence():
  def events(message):
    yield "prepared"
    raise jax.errors.JaxRuntimeError(message)

  run = config.RunConfig()
  with pytest.raises(ConfigError, match=r"memory=default: .* \(RESOURCE_EXHAUSTED: 9 GB\); "):
    list(session._fitting(run, events("RESOURCE_EXHAUSTED: 9 GB\nand much more")))
  with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
    list(session._fitting(run, events("INTERNAL: something else")))
