"""What the page's clicks answer, without a browser."""

import functools
import pathlib

import pytest

from imx2mx_jax import config, edit
from imx2mx_jax.app import server, tasks
from imx2mx_jax.app.worker import Worker
from imx2mx_jax.errors import ConfigError
from tests.app import searches
from tests.cli import support

SCENE = support.MICRO / "scenes" / "scene_05"


@pytest.fixture
def page(tmp_path):
  layout = pytest.importorskip("gradio", reason="needs the extra `app`") and _layout()
  argv = (support.CONFIG,)
  tree, load = config.parse(["app", *argv]), functools.partial(edit.load_models)
  worker = Worker()
  yield layout.Page(server.Setting(tmp_path, argv, tree, "cpu", 8, 2, load), worker)
  worker.close()


def _layout():
  from imx2mx_jax.app import layout

  return layout


def test_a_scene_is_opened_with_the_settings_views_the_reference_first(page):
  shelf, pictures, told, mask, _ = page.open("scene_05")
  assert shelf.chosen == (2, 0, 5, 7) and len(pictures) == 8
  assert told.startswith("4 views") and not mask["visible"]


def test_a_large_scene_shows_the_settings_own_views_and_says_what_it_leaves_out(
  page, tmp_path, monkeypatch
):
  monkeypatch.setattr("imx2mx_jax.app.layout._SHELF", 3)
  page._setting.tree.scene.frames, page._setting.tree.scene.reference = "001.png,6,2", "6"
  shelf, *_ = page.open("scene_05")
  assert shelf.frames == (0, 1, 2, 4, 6, 7) and shelf.chosen == (6, 1, 2)
  assert "2 more frames of the scene are not shown" in shelf.told()


@pytest.mark.parametrize("path", ["gs://bucket/scene", "nowhere/scene"])
def test_a_scene_that_is_not_on_this_machine_is_refused(path, tmp_path):
  with pytest.raises(ConfigError, match=f"scene.path={path}: there is no such folder"):
    server.prepared(tmp_path, [f"--config.scene.path={path}"], 8, 2)


@pytest.mark.parametrize("name", ["../../etc", "/etc", "", str(SCENE)])
def test_only_listed_scenes_are_opened(page, name):
  shelf, *_, said = page.open(name)
  assert shelf is None and "choose a scene, or drop photographs" in said


def test_a_scene_with_a_broken_picture_is_told(page, tmp_path):
  folder = tmp_path / "scenes" / "broken"
  folder.mkdir(parents=True)
  (folder / "transforms.json").write_text('{"frames": [{"file_path": "a.png"}]}')
  shelf, *_, said = page.open("broken")
  assert shelf is None and "there is no picture" in said and "Traceback" not in said


@pytest.mark.parametrize(
  "change, said",
  [
    ({"instruction": " "}, "instruction"),
    ({"seed": -1}, "seed"),
    ({"image": -0.5}, "image_guidance"),
    ({"shelf": None}, "choose a scene"),
  ],
)
@pytest.mark.parametrize("button", ["preview", "edit"])
def test_a_field_that_makes_no_sense_is_told_and_nothing_begins(page, button, change, said):
  shelf, *_ = page.open("scene_05")
  fields = {"shelf": shelf, "instruction": "make it day", "text": None, "image": None, "seed": None}
  answers = list(getattr(page, button)(*(fields | change).values(), False))
  assert len(answers) == 1 and said in answers[0][0] and 'role="alert"' in answers[0][0]
  assert page._worker._row == []


def test_one_view_is_too_few(page):
  shelf, *_ = page.open("scene_05")
  for place in (2, 0, 5):
    shelf = shelf.toggled(place)
  (answer,) = page.edit(shelf, "make it day", None, None, None, False)
  assert "1 views are chosen; an edit needs 2" in answer[0]


def dropped(page):
  return page.receive([str(file) for file in sorted((SCENE / "images").iterdir())])


def test_dropped_photographs_get_cameras_and_become_a_scene(page, tmp_path, monkeypatch):
  monkeypatch.setattr(tasks, "_find", searches.found)
  scenes, told, _, stop, _ = list(dropped(page))[-1]
  assert "8 of 8 photographs have cameras that fit" in told and not stop["visible"]
  assert scenes["value"] in scenes["choices"] and scenes["value"].startswith("photographs-")
  assert (tmp_path / "scenes" / scenes["value"] / "transforms.json").exists()


@pytest.mark.parametrize(
  "search, why",
  [(searches.refused, "0 of 8 photographs have one"), (searches.broken, "broke off")],
)
def test_photographs_without_cameras_are_told_why(page, search, why, monkeypatch):
  monkeypatch.setattr(tasks, "_find", search)
  *_, told, _, stop, _ = list(dropped(page))[-1]
  assert why in told and 'role="alert"' in told and not stop["visible"]


def test_a_search_for_cameras_is_stopped_and_leaves_nothing(page, tmp_path, monkeypatch):
  monkeypatch.setattr(tasks, "_find", searches.endless)
  answers = dropped(page)
  _, told, _, stop, key = next(answer for answer in answers if "matching 28 pairs" in answer[1])
  assert stop["visible"]
  page.cancel(key)
  *_, (_, told, files, stop, _) = answers
  assert "the search was stopped" in told and files is None and not stop["visible"]
  assert not list((tmp_path / "scenes").iterdir())


def test_suspicious_cameras_are_told(page, monkeypatch):
  shelf, *_ = page.open("scene_05")
  assert not page.doubts(shelf)["visible"]
  monkeypatch.setattr("imx2mx_jax.app.tasks.doubts", lambda *_: ["the <focal> lengths; x; y"])
  told = page.doubts(shelf)
  assert told["visible"] and "The cameras may be wrong: the &lt;focal&gt; lengths" in told["value"]


def test_without_gradio_it_says_what_to_install(monkeypatch):
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  with pytest.raises(ConfigError, match=r'pip install "imx2mx_jax\[app\]"'):
    server.prepared(pathlib.Path("x"), [], 8, 2)


def test_a_port_that_is_taken_is_told(tmp_path):
  import socket

  with socket.socket() as taken:
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    with pytest.raises(ConfigError, match="cannot be listened on"):
      server._refuse_taken(taken.getsockname()[1])
  with pytest.raises(ConfigError, match="cannot be listened on"):
    server._refuse_taken(99999)
