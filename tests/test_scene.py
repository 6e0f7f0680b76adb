"""Scenes from disk: what is read, and what a user is told about what cannot be."""

import copy
import dataclasses
import hashlib
import json
import logging
import math
import os
import pathlib
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from imx2mx_jax import cameras
from imx2mx_jax.errors import SceneError
from imx2mx_jax.scene import load_depth, load_scene, view_of

WIDTH, HEIGHT, SIZE = 40, 30, 16
EXIF_ORIENTATION = 0x0112


def pose(index: int) -> list[list[float]]:
  """Camera-to-world, OpenGL axes; another place and direction for every index."""
  matrix = np.eye(4)
  matrix[:3, :3] = Rotation.from_euler("yx", [10 * index, 5], degrees=True).as_matrix()
  matrix[:3, 3] = [index, 0.5, 3]
  return matrix.tolist()


def noise(seed: int = 0, shape=(HEIGHT, WIDTH, 3)) -> np.ndarray:
  return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


class Folder:
  """A scene on disk whose parts a test can change before it is loaded."""

  def __init__(self, path: pathlib.Path, views: int = 4):
    self.path = path
    self.file = path / "transforms.json"
    self.frames = [
      {"file_path": f"images/{index}.png", "transform_matrix": pose(index)}
      for index in range(views)
    ]
    self.top = {"fl_x": 36.0, "fl_y": 35.0, "cx": 19.0, "cy": 16.0, "w": WIDTH, "h": HEIGHT}
    for index in range(views):
      self.save(index, Image.fromarray(noise(index)))
    self.write()

  def save(self, index: int, picture: Image.Image, **options):
    path = self.path / self.frames[index]["file_path"]
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)

  def write(self):
    self.file.write_text(json.dumps({**self.top, "frames": self.frames}))

  def load(self, *frames, **options):
    self.write()
    return load_scene(self.path, frames, **{"size": SIZE, **options})


@pytest.fixture
def folder(tmp_path) -> Folder:
  return Folder(tmp_path / "scene")


def complaint(load) -> str:
  """The one sentence that a user gets."""
  with pytest.raises(SceneError) as raised:
    load()
  message = str(raised.value)
  assert "\n" not in message
  assert not message.endswith(".")
  return message


def says(message: str, *parts):
  for part in parts:
    assert str(part) in message, f"{part!r} is not in: {message}"


class TestWhatIsRead:
  def test_frames_keep_the_users_order(self, folder):
    scene = folder.load(3, "images/0.png", "2", "1.png")
    assert scene.names == ("3.png", "0.png", "2.png", "1.png")
    assert scene.frames == (3, 0, 2, 1)
    np.testing.assert_array_equal(scene.c2w[:, 0, 3], [3, 0, 2, 1])
    assert folder.load(3, 0, 2, authors=True).frames == (0, 2, 3)

  def test_no_choice_means_every_frame(self, folder):
    scene = folder.load()
    assert scene.images.shape == (4, SIZE, SIZE, 3)
    assert scene.images.dtype == scene.K.dtype == np.float32
    assert scene.c2w.dtype == np.float64

  def test_the_file_itself_can_be_named(self, folder):
    other = folder.path / "cameras.json"
    folder.file.rename(other)
    assert load_scene(str(other), size=SIZE).path == str(other)

  def test_opengl_axes_become_opencv_axes(self, folder):
    c2w = folder.load().c2w[1]
    given = np.array(pose(1))
    np.testing.assert_allclose(c2w[:, 0], given[:, 0])
    np.testing.assert_allclose(c2w[:, 1:3], -given[:, 1:3])
    np.testing.assert_allclose(c2w[:, 3], given[:, 3])

  def test_the_applied_transform_is_undone(self, folder):
    plain = folder.load().c2w
    applied = np.array([[0, 1, 0, 0.5], [1, 0, 0, -0.25], [0, 0, -1, 2]])
    folder.top["applied_transform"] = applied.tolist()
    for frame in folder.frames:
      matrix = np.array(frame["transform_matrix"])
      frame["transform_matrix"] = (np.vstack([applied, [0, 0, 0, 1]]) @ matrix).tolist()
    np.testing.assert_allclose(folder.load().c2w, plain, atol=1e-12)

  def test_pictures_without_suffix_are_png(self, folder):
    for frame in folder.frames:
      frame["file_path"] = frame["file_path"].removesuffix(".png")
    assert folder.load().names == ("0", "1", "2", "3")

  def test_pictures_of_one_name_get_their_frames_number(self, folder):
    folder.frames[3]["file_path"] = "other/1.jpg"
    folder.save(3, Image.fromarray(noise(3)))
    assert folder.load(3, 0, 1).names == ("003_1.jpg", "000_0.png", "001_1.png")
    assert folder.load(3, 0).names == ("1.jpg", "0.png")

  def test_a_view_is_found_by_its_frame_or_by_its_name(self, folder):
    scene = folder.load(3, 0, 2)
    assert view_of(scene, 2) == view_of(scene, "2.png") == view_of(scene, "images/2.png") == 2
    says(complaint(lambda: view_of(scene, 1)), folder.file, "no frame 1", "choose among 3, 0, 2")
    says(complaint(lambda: view_of(scene, "1.png")), "no picture 1.png", "did you mean")

  def test_nothing_is_written_into_the_folder(self, folder):
    folder.write()
    (folder.path / "train_test_split_1.json").write_text("the user's own")

    def state():
      paths = [folder.path, *folder.path.rglob("*")]
      digest = lambda path: path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest()
      return {path: (path.stat().st_mtime_ns, digest(path)) for path in paths}

    before = state()
    for path in before:
      os.chmod(path, 0o555 if path.is_dir() else 0o444)
    load_scene(folder.path, size=SIZE)
    load_scene(folder.path, size=SIZE, authors=True)
    assert state() == before


class TestOtherRatiosThanSquares:
  @pytest.mark.parametrize("hw", [(24, 40), (40, 24)])
  def test_they_show_what_a_square_of_the_longer_side_shows_in_its_middle(self, tmp_path, hw):
    folder = Folder(tmp_path)
    folder.top |= {"w": 60, "h": 60, "cx": 29.0, "cy": 27.0}
    for index in range(4):
      folder.save(index, Image.fromarray(noise(index, (60, 60, 3))))
    square, ours = folder.load(size=40), folder.load(size=hw)
    top, left = (40 - hw[0]) // 2, (40 - hw[1]) // 2
    middle = square.images[:, top : top + hw[0], left : left + hw[1]]
    np.testing.assert_array_equal(ours.images, middle)
    in_pixels = square.K * np.array([40, 40, 1])[:, None]
    in_pixels[:, :2, 2] -= left, top
    np.testing.assert_allclose(ours.K * np.array([hw[1], hw[0], 1])[:, None], in_pixels, rtol=1e-6)
    np.testing.assert_array_equal(ours.c2w, square.c2w)

  def test_a_width_that_is_the_height_changes_nothing(self, folder):
    one, other = folder.load(size=SIZE), folder.load(size=(SIZE, SIZE))
    np.testing.assert_array_equal(one.images, other.images)
    np.testing.assert_array_equal(one.K, other.K)

  def test_a_picture_whose_camera_lay_on_its_side_is_cut_upright(self, folder):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    for index in range(4):
      folder.save(index, Image.fromarray(noise(index)), exif=exif)
    upright = folder.load(size=(32, 16))
    whole = folder.load(size=(WIDTH, HEIGHT))
    assert upright.images.shape[1:3] == (32, 16)
    # A ray through the middle leaves in the same direction, whatever is cut away around it.
    ray = lambda scene: scene.c2w[0, :3, :3] @ np.linalg.inv(scene.K[0]) @ [0.5, 0.5, 1]
    np.testing.assert_allclose(ray(upright), ray(whole), atol=0.02)


class TestPictures:
  def load_one(self, folder, picture: Image.Image, name="images/0.png", **options):
    """The square that a picture becomes, where it is the whole square already."""
    for key in ("w", "h"):
      folder.top.pop(key, None)
    folder.frames[0]["file_path"] = name
    folder.save(0, picture, **options)
    return folder.load(0, 1).images[0]

  def test_colours_run_from_minus_one_to_one(self, folder):
    pixels = noise(7, (SIZE, SIZE, 3))
    image = self.load_one(folder, Image.fromarray(pixels))
    np.testing.assert_allclose(image, pixels / 127.5 - 1, atol=1e-6)

  def test_transparency_lies_on_white(self, folder):
    pixels = noise(7, (SIZE, SIZE, 4))
    alpha = pixels[..., 3:] / 255
    image = self.load_one(folder, Image.fromarray(pixels))
    wanted = (pixels[..., :3] * alpha / 255 + 1 - alpha) * 2 - 1
    np.testing.assert_allclose(image, wanted, atol=1e-6)

  def test_grey_with_alpha_and_palettes_with_a_transparent_colour_lie_on_white(self, folder):
    pixels = noise(7, (SIZE, SIZE, 2))
    pixels[..., 1] = 0
    assert (self.load_one(folder, Image.fromarray(pixels)) == 1).all()
    palette = Image.fromarray(noise(7)[:SIZE, :SIZE]).quantize(4)
    where = np.asarray(palette) == 2
    image = self.load_one(folder, palette, transparency=2)
    assert (image[where] == 1).all()
    assert where.any()
    assert (image[~where] < 1).any()

  def test_grey_and_palette_pictures_become_three_channels(self, folder):
    pixels = noise(7, (SIZE, SIZE))
    image = self.load_one(folder, Image.fromarray(pixels))
    np.testing.assert_allclose(image, np.repeat(pixels[..., None] / 127.5 - 1, 3, -1), atol=1e-6)
    palette = Image.fromarray(noise(7, (SIZE, SIZE, 3))).quantize(8)
    image = self.load_one(folder, palette)
    np.testing.assert_allclose(image, np.asarray(palette.convert("RGB")) / 127.5 - 1, atol=1e-6)

  @pytest.mark.parametrize("suffix", ["png", "tif"])
  def test_grey_of_16_bits_keeps_its_depth(self, folder, suffix):
    pixels = np.random.default_rng(0).integers(0, 65536, (SIZE, SIZE), dtype=np.uint16)
    image = self.load_one(folder, Image.fromarray(pixels), f"images/deep.{suffix}")
    np.testing.assert_allclose(image[..., 0], pixels / 32767.5 - 1, atol=1e-6)

  def test_colour_of_16_bits_is_read(self, folder):
    pixels = np.random.default_rng(0).integers(0, 65536, (SIZE, SIZE, 3)).astype(">u2")
    chunk = lambda kind, data: (
      struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    )
    header = struct.pack(">IIBBBBB", SIZE, SIZE, 16, 2, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels))
    picture = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows)
    folder.top = {"fl_x": 36.0}
    (folder.path / "images/0.png").write_bytes(picture + chunk(b"IEND", b""))
    image = folder.load(0, 1).images[0]
    np.testing.assert_allclose(image, pixels / 32767.5 - 1, atol=1 / 127)

  def test_pictures_of_any_shape_become_squares_within_the_range(self, folder):
    for shape in ((7, 50, 3), (200, 31, 3), (16, 16, 3), (1, 1, 3)):
      white = Image.fromarray(np.full(shape, 255, np.uint8))
      assert (self.load_one(folder, white) == 1).mean() > 0.5
      image = self.load_one(folder, Image.fromarray(noise(3, shape)))
      assert image.shape == (SIZE, SIZE, 3)
      assert np.abs(image).max() <= 1


class TestExif:
  def save(self, folder, orientation: int) -> np.ndarray:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    pixels = noise(9)
    folder.save(0, Image.fromarray(pixels), exif=exif)
    return pixels

  @pytest.mark.parametrize(("orientation", "quarters"), [(3, 2), (6, -1), (8, 1)])
  def test_a_turned_picture_is_shown_upright(self, folder, orientation, quarters):
    upright = np.rot90(self.save(folder, orientation), quarters)
    folder.frames[0] |= {"w": upright.shape[1], "h": upright.shape[0], "cx": 10.0, "cy": 9.0}
    turned = folder.load(0, 1)
    folder.save(0, Image.fromarray(upright))
    plain = folder.load(0, 1)
    np.testing.assert_array_equal(turned.images, plain.images)
    np.testing.assert_array_equal(turned.K, plain.K)
    np.testing.assert_array_equal(turned.c2w, plain.c2w)

  @pytest.mark.parametrize(("orientation", "quarters"), [(6, -1), (8, 1)])
  def test_the_camera_turns_along_where_the_file_describes_the_stored_picture(
    self, folder, orientation, quarters
  ):
    self.save(folder, orientation)
    turned = folder.load(0, 1)
    folder.save(0, Image.fromarray(noise(9)))
    stored = folder.load(0, 1)
    np.testing.assert_array_equal(turned.images[0], np.rot90(stored.images[0], quarters))
    rays = lambda scene: cameras.plucker(scene.c2w[[1, 0]], scene.K[[1, 0]], (8, 8))[1]
    np.testing.assert_allclose(rays(turned), np.rot90(rays(stored), quarters), atol=1e-5)


class TestIntrinsics:
  def K(self, folder, size=SIZE) -> np.ndarray:
    return folder.load(0, 1, size=size).K[0]

  def test_they_follow_the_square(self, folder):
    width = math.ceil(SIZE * WIDTH / HEIGHT)
    left = width // 2 - SIZE // 2
    wanted = [
      [36 * width / WIDTH / SIZE, 0, (19 * width / WIDTH - left) / SIZE],
      [0, 35 / HEIGHT, 16 / HEIGHT],
      [0, 0, 1],
    ]
    np.testing.assert_allclose(self.K(folder), wanted, atol=1e-6)

  def test_a_frames_own_win_over_the_top_levels_and_are_never_mixed_with_them(self, folder):
    folder.frames[0] |= {"fl_x": 20.0}
    scene = folder.load(0, 1)
    assert scene.K[0, 1, 1] == pytest.approx(20 / HEIGHT)  # not the top level's fl_y
    assert scene.K[1, 1, 1] == pytest.approx(35 / HEIGHT)
    theirs = folder.load(0, 1, authors=True)
    np.testing.assert_array_equal(theirs.K[0], theirs.K[1])

  def test_what_is_missing_is_square_and_centred(self, folder):
    folder.top = {"fl_x": 36.0}
    wanted = [[36 / HEIGHT, 0, 0.5], [0, 36 / HEIGHT, 0.5], [0, 0, 1]]
    np.testing.assert_allclose(self.K(folder, size=HEIGHT), wanted, atol=1e-6)

  def test_an_angle_of_view_will_do(self, folder):
    folder.top = {"camera_angle_x": 2 * math.atan(WIDTH / 2 / 36)}
    np.testing.assert_allclose(self.K(folder, size=HEIGHT)[[0, 1], [0, 1]], 36 / HEIGHT, rtol=1e-6)
    folder.top["camera_angle_y"] = 2 * math.atan(HEIGHT / 2 / 25)
    assert self.K(folder)[1, 1] == pytest.approx(25 / HEIGHT)

  def test_normalised_ones_are_recognised(self, folder):
    pixels = self.K(folder)
    for extent, keys in ((WIDTH, ("fl_x", "cx")), (HEIGHT, ("fl_y", "cy"))):
      folder.top |= {key: folder.top[key] / extent for key in keys}
    np.testing.assert_allclose(self.K(folder), pixels, rtol=1e-6)
    del folder.top["cx"], folder.top["cy"]
    assert self.K(folder, size=HEIGHT)[0, 2] == pytest.approx(0.5)

  def test_a_principal_point_in_the_corner_does_not_make_them_normalised(self, folder):
    folder.top |= {"cx": 1.0, "cy": 1.0}
    assert self.K(folder)[1, 1] == pytest.approx(35 / HEIGHT)
    theirs = folder.load(0, 1, authors=True).K[0]
    assert theirs[1, 1] == pytest.approx(35)


class TestLensDistortion:
  def warnings(self, folder, caplog, **options) -> list[str]:
    with caplog.at_level(logging.WARNING, logger="absl"):
      folder.load(**options)
    return [record.getMessage() for record in caplog.records]

  def test_where_it_is_ignored_a_warning_says_how_large_it_is(self, folder, caplog):
    folder.top |= {"fl_x": 40.0, "fl_y": 40.0, "cx": 20.0, "cy": 15.0, "k1": 0.1}
    folder.frames[2] |= {"k1": 0.2}
    wanted = 40 * 0.2 * math.hypot(0.5, 0.375) ** 3
    options = {"scene.undistort=false": {"undistort": False}, "compat=authors": {"authors": True}}
    for setting, option in options.items():
      [message] = self.warnings(folder, caplog, **option)
      asked = f"ignored, as --config.{setting} asks"
      says(message, folder.file, "frame 2", f"up to {wanted:.1f} pixels of 40 x 30", asked)
      says(message, "leave that setting out to have the pictures undistorted")
      caplog.clear()
    assert not self.warnings(folder, caplog)

  def test_none_is_mentioned_where_there_is_none(self, folder, caplog):
    folder.top |= {"k1": 0.0, "k2": 0, "p1": 0.0}
    assert not self.warnings(folder, caplog, undistort=False)

  def test_a_picture_of_directions_shows_the_directions_of_the_new_camera(self, folder):
    """Each pixel's colour is the direction that a lens with this distortion saw there."""
    size, focal, lens = 64, 60.0, {"k1": -0.2, "p1": 0.01}
    K = np.array([[focal, 0, 32], [0, focal, 32], [0, 0, 1]])
    folder.top = {"fl_x": focal, "w": size, "h": size, **lens}
    pixels = cameras.pixel_centres((size, size)).reshape(-1, 2) * size
    seen = (cameras.undistort_points(pixels, K, lens) - 32) / focal
    colours = np.pad((seen + 1) * 127.5, ((0, 0), (0, 1))).reshape(size, size, 3)
    for index in (0, 1):
      folder.save(index, Image.fromarray(np.rint(colours).astype(np.uint8)))
    errors = {}
    for undistort in (True, False):
      scene = folder.load(0, 1, size=size, undistort=undistort)
      rays = cameras.pixel_centres((size, size)) - scene.K[0, :2, 2]
      rays /= scene.K[0, [0, 1], [0, 1]]
      errors[undistort] = np.abs(scene.images[0, ..., :2] - rays).max()
    assert errors[True] < 0.01
    assert errors[False] > 0.05

  def test_depth_lies_under_the_pictures_that_were_straightened(self, folder):
    """The picture shows the depth: they agree as well with distortion as without."""
    size, levels = 64, np.arange(64 * 64).reshape(64, 64) // 64 * 900 + 4000
    shown = np.repeat((levels / 257)[..., None], 3, axis=2)
    folder.top = {"fl_x": 60.0, "w": size, "h": size, "k1": -0.2, "p1": 0.01}
    for index in (0, 1):
      folder.save(index, Image.fromarray(np.rint(shown).astype(np.uint8)))
      Image.fromarray(levels.astype(np.uint16)).save(folder.path / f"depth_{index}.png")
      folder.frames[index]["depth_file_path"] = f"depth_{index}.png"
    errors = {}
    for undistort in (True, False):
      scene = folder.load(0, 1, size=size, undistort=undistort)
      depth = load_depth(scene, size)[0] / 1e-3 / 65535 * 2 - 1
      errors[undistort] = np.abs(scene.images[0, ..., 0] - depth).max()
      given = load_depth(dataclasses.replace(scene, undistorted=not undistort), size)[0]
      assert np.abs(scene.images[0, ..., 0] - given / 1e-3 / 65535 * 2 + 1).max() > 0.035
    assert max(errors.values()) < 0.02  # half a row

  def test_coefficients_stay_with_their_names(self):
    every = dict(zip(cameras.DISTORTION, (1, 2, 3, 4, 5, 6, 7, 8), strict=True))
    np.testing.assert_array_equal(cameras.opencv_lens(every), [1, 2, 7, 8, 3, 4, 5, 6])


class TestComplaintsAboutTheFile:
  def test_no_folder(self, tmp_path):
    missing = tmp_path / "nowhere"
    says(complaint(lambda: load_scene(missing, size=SIZE)), missing, "no such folder", "give one")

  def test_no_transforms(self, folder):
    folder.file.unlink()
    message = complaint(lambda: load_scene(folder.path, size=SIZE))
    says(message, folder.file, "is missing", "ns-process-data")

  def test_broken_json(self, folder):
    folder.file.write_text('{"fl_x": 36.0,\n "frames": [}')
    message = complaint(lambda: load_scene(folder.path, size=SIZE))
    says(message, folder.file, "line 2, column 13", "export")

  def test_a_file_of_another_kind(self, folder):
    message = complaint(lambda: load_scene(folder.path / "images/0.png", size=SIZE))
    says(message, "images/0.png", "cannot be read as JSON", "export")

  @pytest.mark.parametrize("content", ["[]", "{}", '{"frames": []}', '{"frames": 3}'])
  def test_no_frames(self, folder, content):
    folder.file.write_text(content)
    message = complaint(lambda: load_scene(folder.path, size=SIZE))
    says(message, folder.file, "no list of frames", "at least 2")

  def test_a_frame_that_is_no_object(self, folder):
    folder.frames[1] = "images/1.png"
    says(complaint(folder.load), folder.file, "frame 1", '"images/1.png"', "mend or remove")

  @pytest.mark.parametrize("key", ["file_path", "transform_matrix"])
  def test_a_frame_without_picture_or_pose(self, folder, key):
    del folder.frames[1][key]
    says(complaint(folder.load), folder.file, "frame 1", f"has no {key}", "leave it out")
    assert folder.load(0, 2).names == ("0.png", "2.png")


class TestComplaintsAboutTheChoice:
  @pytest.mark.parametrize("index", [4, -1, 1000])
  def test_an_index_out_of_range(self, folder, index):
    message = complaint(lambda: folder.load(0, index))
    says(message, folder.file, f"no frame {index}", "choose among 0 to 3")

  def test_an_unknown_name(self, folder):
    folder.frames[2]["file_path"] = "images/frame_00023.png"
    message = complaint(lambda: folder.load("frame_00032.png", 0))
    says(message, folder.file, "no picture frame_00032.png", "did you mean frame_00023.png?")

  def test_a_name_of_two_frames(self, folder):
    folder.frames[3]["file_path"] = "other/1.png"
    message = complaint(lambda: folder.load("1.png", 0))
    says(message, folder.file, "1.png names the frames 1 and 3", "whole file_path")

  @pytest.mark.parametrize("frames", [(2, 2), (0, 2, "2.png")])
  def test_a_frame_chosen_twice(self, folder, frames):
    says(complaint(lambda: folder.load(*frames)), folder.file, "frame 2 (images/2.png)", "twice")

  def test_fewer_than_two_views(self, folder):
    says(complaint(lambda: folder.load(3)), folder.file, "1 view", "at least 2", "choose more")

  def test_more_than_twenty_views(self, tmp_path):
    folder = Folder(tmp_path / "many", views=21)
    says(complaint(folder.load), folder.file, "21 views", "20", "choose some")
    assert len(folder.load(*range(20)).names) == 20


class TestComplaintsAboutPoses:
  def refused(self, folder, matrix, *parts):
    folder.frames[1]["transform_matrix"] = matrix
    message = complaint(folder.load)
    says(message, folder.file, "frame 1 (images/1.png)", *parts)
    folder.load(0, 2)

  def changed(self, change) -> list:
    matrix = np.array(pose(1))
    change(matrix)
    return matrix.tolist()

  def test_not_four_by_four(self, folder):
    self.refused(folder, pose(1)[:3], "is 3x4, wanted 4x4", "export")
    self.refused(folder, 7, "is a number, wanted 4x4", "export")

  @pytest.mark.parametrize("matrix", ["abc", [[1, 2], [3]], [["a"] * 4] * 4, {"a": 1}])
  def test_not_numbers(self, folder, matrix):
    self.refused(folder, matrix, "not a matrix of numbers", "export")

  @pytest.mark.parametrize("value", [math.nan, math.inf])
  def test_not_finite(self, folder, value):
    matrix = pose(1)
    matrix[2][3] = value
    self.refused(folder, matrix, f"holds {value}", "leave this frame out")

  def test_singular(self, folder):
    matrix = pose(1)
    matrix[1] = matrix[0]
    self.refused(folder, matrix, "singular", "export")

  def test_mirrored(self, folder):
    matrix = np.array(pose(1)) * [-1, 1, 1, 1]
    which = f"which flip it is: python -m imx2mx_jax.inspect_scene {folder.path}"
    self.refused(folder, matrix.tolist(), "mirrored", "determinant -1", "right-handed", which)

  def test_scaled_or_sheared(self, folder):
    scaled = np.array(pose(1)) * [2, 2, 2, 1]
    self.refused(folder, scaled.tolist(), "not rigid", "3 off", "without scale")
    tiny = np.array(pose(1)) * [1e-4, 1e-4, 1e-4, 1]
    self.refused(folder, tiny.tolist(), "not rigid", "1 off", "without scale")
    rounded = np.round(np.array(pose(1)), 4)
    folder.frames[1]["transform_matrix"] = rounded.tolist()
    folder.load()

  def test_a_last_row_that_is_none(self, folder):
    self.refused(folder, np.array(pose(1)).T.tolist(), "last row", "wanted 0 0 0 1", "row by row")

  def test_two_frames_at_the_same_pose(self, folder):
    folder.frames[3]["transform_matrix"] = copy.deepcopy(folder.frames[1]["transform_matrix"])
    message = complaint(folder.load)
    says(message, folder.file, "frame 3 (images/3.png)", "same pose as frame 1", "leave one")
    folder.load(0, 1, 2)
    folder.load(authors=True)

  def test_an_applied_transform_that_cannot_be_undone(self, folder):
    folder.top["applied_transform"] = [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]]
    says(complaint(folder.load), folder.file, "applied_transform is singular", "mend or remove")
    folder.top["applied_transform"] = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    says(complaint(folder.load), folder.file, "applied_transform is 3x3, wanted 3x4 or 4x4")


class TestComplaintsAboutPictures:
  def test_a_missing_picture(self, folder):
    picture = folder.path / "images/2.png"
    picture.unlink()
    says(complaint(folder.load), folder.file, "frame 2", f"no picture {picture}", "put it there")

  def test_a_truncated_picture(self, folder):
    picture = folder.path / "images/2.png"
    picture.write_bytes(picture.read_bytes()[:-600])
    says(complaint(folder.load), folder.file, "frame 2", picture, "cannot be read", "save it again")

  def test_a_file_that_is_no_picture(self, folder):
    picture = folder.path / "images/2.png"
    picture.write_text("not a picture")
    says(complaint(folder.load), folder.file, "frame 2", picture, "cannot be read", "save it again")

  def test_pixels_without_a_known_white(self, folder):
    folder.frames[2]["file_path"] = "images/2.tif"
    folder.save(2, Image.fromarray(np.ones((HEIGHT, WIDTH), np.float32)))
    says(complaint(folder.load), folder.file, "frame 2", "mode F", "8 or 16 bits")

  @pytest.mark.parametrize("where", ["top", "frame"])
  def test_another_size_than_the_files(self, folder, where):
    (folder.top if where == "top" else folder.frames[0]).update({"w": 80, "h": 60})
    message = complaint(folder.load)
    says(message, folder.file, "frame 0", "40 x 30", "h = 60 and w = 80", "scale w, h and the")
    folder.load(authors=True)


class TestComplaintsAboutIntrinsics:
  def test_no_focal_length(self, folder):
    del folder.top["fl_x"]
    says(complaint(folder.load), folder.file, "frame 0", "no focal length", "add fl_x")

  @pytest.mark.parametrize("key", ["fl_x", "fl_y"])
  @pytest.mark.parametrize("value", [0, -36.0])
  def test_a_focal_length_that_is_not_above_zero(self, folder, key, value):
    folder.top[key] = value
    says(complaint(folder.load), folder.file, "frame 0", f"{key} = {value:g}", "above zero")

  def test_an_impossible_angle_of_view(self, folder):
    folder.top = {"camera_angle_x": 50}
    says(complaint(folder.load), folder.file, "camera_angle_x = 50", "radians")

  @pytest.mark.parametrize("key", ["fl_x", "cy", "w", "k1"])
  @pytest.mark.parametrize("value", ["wide", None, math.nan])
  def test_a_value_that_is_no_number(self, folder, key, value):
    folder.top[key] = value
    says(complaint(folder.load), folder.file, f"{key} = {json.dumps(value)}", "finite number")

  @pytest.mark.parametrize("model", ["OPENCV_FISHEYE", "EQUIRECTANGULAR"])
  def test_a_camera_that_is_no_pinhole(self, folder, model):
    folder.top["camera_model"] = model
    says(complaint(folder.load), folder.file, "frame 0", model, "undistort")
