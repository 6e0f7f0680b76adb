"""What a browser sends is taken over as a scene, or refused in a sentence with nothing kept."""

import io
import json
import pathlib
import shutil
import stat
import zipfile

import numpy as np
import pytest
from PIL import Image

from imx2mx_jax import scene
from imx2mx_jax.app import uploads
from imx2mx_jax.errors import SceneError
from tests.cli.support import MICRO

SCENE = MICRO / "scenes" / "scene_05"


def picture(value=0, size=(8, 6)) -> bytes:
  stream = io.BytesIO()
  Image.fromarray(np.full((*size[::-1], 3), value, np.uint8)).save(stream, "PNG")
  return stream.getvalue()


def dropped(folder: pathlib.Path, files: dict[str, bytes]) -> list[pathlib.Path]:
  """Files as the browser's server keeps them, each in a folder of its own."""
  paths = []
  for number, (name, content) in enumerate(files.items()):
    path = folder / "sent" / str(number) / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    paths.append(path)
  return paths


def zipped(folder: pathlib.Path, members: dict[str, bytes], name="scene.zip") -> pathlib.Path:
  file = folder / name
  with zipfile.ZipFile(file, "w") as archive:
    for member, content in members.items():
      archive.writestr(member, content)
  return file


def refused(files, tmp_path) -> str:
  """The sentence; nothing is kept, here or elsewhere."""
  out, before = tmp_path / "out", set(tmp_path.rglob("*"))
  with pytest.raises(SceneError) as caught:
    uploads.receive(files, out)
  assert set(tmp_path.rglob("*")) - before <= {out, out / "scenes", out / "photographs"}
  return str(caught.value)


def test_a_zip_of_a_scene_folder_is_that_scene(tmp_path):
  packed = shutil.make_archive(str(tmp_path / "bear"), "zip", SCENE.parent, SCENE.name)
  received = uploads.receive([pathlib.Path(packed)], tmp_path / "out")
  assert received.cameras and received.folder.parent == tmp_path / "out" / "scenes"
  assert received.folder.name.startswith("bear-")
  assert received.left_out == 1  # edits.json
  ours, theirs = (scene.load_scene(path, (2, 0), size=16) for path in (received.folder, SCENE))
  np.testing.assert_array_equal(ours.images, theirs.images)
  assert scene.load_depth(ours, 16) is not None


def test_loose_pictures_with_their_cameras_are_a_scene(tmp_path):
  files = [SCENE / "transforms.json", *sorted((SCENE / "images").iterdir())[:3]]
  received = uploads.receive(files, tmp_path / "out")
  ours, theirs = (scene.load_scene(path, (0, 1, 2), size=16) for path in (received.folder, SCENE))
  np.testing.assert_array_equal(ours.images, theirs.images)
  assert len(scene.read_transforms(received.folder).frames) == 3


def test_photographs_alone_wait_for_cameras(tmp_path):
  files = dropped(tmp_path, {f"{name}.png": picture(value) for value, name in enumerate("abc")})
  received = uploads.receive(files, tmp_path / "out")
  assert not received.cameras and received.folder.parent.name == "photographs"
  assert sorted(path.name for path in received.folder.iterdir()) == ["a.png", "b.png", "c.png"]


def test_the_same_files_are_the_same_scene(tmp_path):
  files = dropped(tmp_path, {"a.png": picture(1), "b.png": picture(2)})
  first, again = (uploads.receive(files, tmp_path / "out").folder for _ in range(2))
  other = uploads.receive(files[:1], tmp_path / "out").folder
  assert first == again != other


@pytest.mark.parametrize(
  "name, kept",
  [
    ("../../evil.png", "evil.png"),
    ("..\\..\\evil.png", "evil.png"),
    ("a b;rm -rf $HOME`.png", "a b_rm -rf _HOME_.png"),
    (".hidden.png", "hidden.png"),
    ("x" * 300 + ".png", "x" * 80 + ".png"),
    ("bär.PNG", "bär.PNG"),
  ],
)
def test_names_are_cleaned(name, kept):
  assert uploads._clean(name) == kept


@pytest.mark.parametrize("member", ["../evil.png", "/evil.png", "a/../../evil.png", "C:\\evil.png"])
def test_a_zip_that_leads_elsewhere_is_refused(member, tmp_path):
  files = [zipped(tmp_path, {"a.png": picture(), member: picture()})]
  assert refused(files, tmp_path) == "evil.png: leads out of the zip's folder; pack it again"


def test_a_link_in_a_zip_is_refused(tmp_path):
  file = tmp_path / "scene.zip"
  with zipfile.ZipFile(file, "w") as archive:
    link = zipfile.ZipInfo("passwd.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(link, "/etc/passwd")
  assert "passwd.png: is a link" in refused([file], tmp_path)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
  monkeypatch.setattr(uploads, "MOST_BYTES", 1_000_000)
  file = tmp_path / "scene.zip"
  with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("a.png", bytes(3_000_000))
  assert file.stat().st_size < 10_000
  assert refused([file], tmp_path).startswith("3 MB are more than the 1 accepted")


def test_a_zip_that_lies_about_its_size_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(uploads, "MOST_BYTES", 1_000_000)
  file = tmp_path / "scene.zip"
  with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("a.png", bytes(3_000_000))
  stated = (3_000_000).to_bytes(4, "little")
  file.write_bytes(file.read_bytes().replace(stated, (100).to_bytes(4, "little")))
  assert "scene.zip: the zip cannot be unpacked" in refused([file], tmp_path)


@pytest.mark.parametrize(
  "files, said",
  [
    ({"a.png": b"no picture"}, "a.png: is not a picture that can be read"),
    ({"a.png": picture()[:40]}, "a.png: is not a picture that can be read"),
    ({"a.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>"}, "a.png: is not a picture"),
    ({"run.py": b"print()"}, "run.py: only pictures"),
    ({"transforms.json": b"{}", "a.png": picture()}, "transforms.json: is no JSON with a list"),
    ({"transforms.json": b"[" * 100_000, "a.png": picture()}, "transforms.json: is no JSON"),
    ({"transforms.json": b'{"frames": [{}]}', "a.png": picture()}, "transforms.json: fewer than"),
    ({"transforms.json": b'{"frames": []}'}, "transforms.json: fewer than two"),
    ({"a.zip": b"PK", "b.png": picture()}, "a.zip: drop one zip alone"),
    ({"a.zip": b"no zip"}, "a.zip: the zip cannot be unpacked"),
  ],
)
def test_bad_files_are_refused(files, said, tmp_path):
  assert refused(dropped(tmp_path, files), tmp_path).startswith(said)


def test_two_loose_files_of_one_name_are_refused(tmp_path):
  files = dropped(tmp_path / "1", {"a.png": picture(1)}) + dropped(
    tmp_path / "2", {"a.png": picture(2)}
  )
  assert "a.png: two files have this name" in refused(files, tmp_path)


@pytest.mark.parametrize("key", ["file_path", "depth_file_path"])
@pytest.mark.parametrize("path", ["../../secret.png", "/etc/secret.png"])
def test_cameras_of_pictures_elsewhere_are_refused(key, path, tmp_path):
  frames = [{"file_path": "a.png", key: path}]
  members = {"a.png": picture(), "transforms.json": json.dumps({"frames": frames}).encode()}
  said = refused([zipped(tmp_path, members)], tmp_path)
  assert said.startswith(f"transforms.json: frame 0 has the {key} '{path}', which leads out")


def test_too_many_and_too_large_pictures_are_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(uploads, "MOST_PIXELS", 40)
  files = dropped(tmp_path, {"a.png": picture(), "b.png": picture()})
  assert refused(files, tmp_path).startswith("a.png: has 0 megapixels, more than")
  monkeypatch.setattr(uploads, "MOST_FILES", 1)
  assert refused(files, tmp_path).startswith("2 files are more than the 1 accepted")


def test_a_zip_s_cameras_find_pictures_whose_names_were_cleaned(tmp_path):
  frames = [
    {"file_path": f"images/{name}", "transform_matrix": pose.tolist(), "fl_x": 9, "fl_y": 9}
    for name, pose in (("a+b.png", np.eye(4)), ("#2", np.diag([1, 1, 1, 1]) + np.eye(4, k=3)))
  ]
  members = {"x/images/a+b.png": picture(1), "x/images/#2.png": picture(2)}
  members["x/transforms.json"] = json.dumps({"frames": frames}).encode()
  received = uploads.receive([zipped(tmp_path, members)], tmp_path / "out")
  read = scene.load_scene(received.folder, size=8)
  assert read.names == ("a_b.png", "_2")


def test_cameras_may_not_name_what_no_file_is_called(tmp_path):
  members = {"a.png": picture(), "transforms.json": b'{"frames": [{"file_path": "a\\u0000.png"}]}'}
  received = uploads.receive([zipped(tmp_path, members)], tmp_path / "out")
  with pytest.raises(SceneError, match="there is no picture"):
    scene.read_picture(scene.read_transforms(received.folder), 0)


def test_a_colmap_model_in_a_zip_is_refused_with_a_way_out(tmp_path):
  members = {"images/a.png": picture(), "depth/a.png": picture(), "sparse/0/cameras.bin": b""}
  said = refused([zipped(tmp_path, members)], tmp_path)
  assert said.startswith("scene.zip: has a COLMAP model") and "--config.scene.path=FOLDER" in said
