"""Files that a browser sent -> a folder of photographs, or a scene, below the page's own folder.

Nothing that was sent is trusted: names are cleaned, kinds, counts and sizes are limited, pictures
must open as pictures, and cameras may only name pictures of their own folder. What is not accepted
is a SceneError of one sentence, and then nothing is kept.
"""

import dataclasses
import hashlib
import json
import pathlib
import re
import shutil
import stat
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Sequence

from PIL import Image

from imx2mx_jax.errors import SceneError

MOST_FILES = 300
MOST_BYTES = 500_000_000  # of all files together, unpacked
MOST_PIXELS = 60_000_000  # of a picture
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
CAMERAS = "transforms.json"
MASKS = "masks"

_PATHS = ("file_path", "depth_file_path")


@dataclasses.dataclass(frozen=True)
class Received:
  """folder: with transforms.json where `cameras`, else with photographs alone.

  left_out: how many files of a zip are of other kinds.
  """

  folder: pathlib.Path
  cameras: bool
  left_out: int


def receive(files: Sequence[pathlib.Path], out: pathlib.Path) -> Received:
  """Takes over the files of one drop: photographs, perhaps with a transforms.json, or one zip.

  The folder is out/scenes/NAME-HASH, or out/photographs/NAME-HASH without cameras: the same files
  are the same scene. Loose files have no folders; only a zip has depth and masks. Raises:
  SceneError.
  """
  zipped = [file for file in files if file.suffix.lower() == ".zip"]
  if zipped and len(files) > 1:
    raise SceneError(f"{_clean(zipped[0].name)}: drop one zip alone, or photographs without it")
  out.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(prefix=".receiving-", dir=out) as name:
    staged = pathlib.Path(name) / "scene"
    staged.mkdir()
    left_out = _unpack(zipped[0], staged) if zipped else _copy(files, staged)
    cameras = (staged / CAMERAS).exists()
    _refuse_no_pictures(staged)
    if cameras:
      _clean_cameras(staged)
    else:
      _flatten(staged)
    stem = _clean(zipped[0].stem) if zipped else ("scene" if cameras else "photographs")
    folder = out / ("scenes" if cameras else "photographs") / f"{stem}-{_hash(staged)}"
    folder.parent.mkdir(exist_ok=True)
    if not folder.exists():
      staged.rename(folder)
  return Received(folder, cameras, left_out)


def _copy(files: Sequence[pathlib.Path], folder: pathlib.Path) -> int:
  """Loose files: pictures to images/, where transforms.json is made to look for them."""
  names = [_clean(file.name) for file in files]
  _refuse_many(len(names), sum(file.stat().st_size for file in files))
  (folder / "images").mkdir()
  for file, name in zip(files, names, strict=True):
    target = folder / name if name == CAMERAS else folder / "images" / name
    if target.exists():
      raise SceneError(
        f"{name}: two files have this name; rename one, or drop a zip of the whole folder"
      )
    if not _wanted(name):
      kinds = ", ".join(PICTURES)
      raise SceneError(f"{name}: only pictures ({kinds}), {CAMERAS} and a zip are accepted")
    shutil.copyfile(file, target)
    _check_picture(target)
  if (folder / CAMERAS).exists():
    _point_to_images(folder)
  return 0


def _unpack(file: pathlib.Path, folder: pathlib.Path) -> int:
  """A zip: only what belongs to a scene, only below the folder, only as much as is allowed.

  Gives how many files were left out.
  """
  try:
    with zipfile.ZipFile(file) as archive:
      members = list(_members(archive))
      _refuse_model(_clean(file.name), [path for _, path in members])
      top = _top([path for _, path in members])
      taken = [
        (info, folder / path.relative_to(top))
        for info, path in members
        if path.is_relative_to(top) and _wanted(path.name)
      ]
      _refuse_many(len(taken), sum(info.file_size for info, _ in taken))
      for info, target in taken:
        if target.exists():
          raise SceneError(f"{target.name}: two files of the zip have this name; rename one")
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(info) as packed, target.open("xb") as stream:
          shutil.copyfileobj(packed, stream)  # zipfile reads no more than the stated size
        _check_picture(target)
  except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, OSError) as error:
    raise SceneError(
      f"{_clean(file.name)}: the zip cannot be unpacked ({error}); pack the folder again, without "
      "a password"
    ) from error
  return len(members) - len(taken)


def _refuse_model(name: str, paths: Sequence[pathlib.PurePosixPath]) -> None:
  """Refuses a COLMAP model as a scene's only cameras, which would be left out."""
  names = {path.name for path in paths}
  if CAMERAS not in names and names & {"cameras.bin", "cameras.txt"}:
    raise SceneError(
      f"{name}: has a COLMAP model and no {CAMERAS}, and the page reads only that; begin the page "
      "with --config.scene.path=FOLDER, which reads such models, or drop the photographs alone"
    )


def _members(archive: zipfile.ZipFile) -> Iterator[tuple[zipfile.ZipInfo, pathlib.PurePosixPath]]:
  """The files that are not hidden, and their cleaned paths. Refuses what leads elsewhere."""
  for info in archive.infolist():
    path = pathlib.PurePosixPath(info.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in info.filename:
      raise SceneError(f"{_clean(path.name)}: leads out of the zip's folder; pack it again")
    if stat.S_ISLNK(info.external_attr >> 16):
      raise SceneError(f"{_clean(path.name)}: is a link; put the file itself into the zip")
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    if not info.is_dir() and not hidden:
      yield info, pathlib.PurePosixPath(*(_clean(part) for part in path.parts))


def _top(paths: Sequence[pathlib.PurePosixPath]) -> pathlib.PurePosixPath:
  """The folder that holds the cameras, the uppermost one."""
  holding = [path.parent for path in paths if path.name == CAMERAS]
  return min(holding, key=lambda path: len(path.parts), default=pathlib.PurePosixPath())


def _flatten(folder: pathlib.Path) -> None:
  """Photographs without cameras: all of them in one folder, whatever folders they were in."""
  for file in [path for path in folder.rglob("*") if path.is_file()]:
    if file.parent == folder:
      continue
    if (folder / file.name).exists():
      raise SceneError(f"{file.name}: two photographs have this name; rename one")
    file.rename(folder / file.name)
  for empty in [path for path in folder.iterdir() if path.is_dir()]:
    shutil.rmtree(empty)


def _point_to_images(folder: pathlib.Path) -> None:
  """Has the cameras of loose files look for their pictures in images/, and for no depth."""
  content = _read_cameras(folder)
  for frame in content["frames"]:
    frame.pop("depth_file_path", None)
    if isinstance(frame.get("file_path"), str):
      named = frame["file_path"].replace("\\", "/")
      frame["file_path"] = f"images/{_clean(pathlib.PurePosixPath(named).name)}"
  content["frames"] = [frame for frame in content["frames"] if _has_picture(folder, frame)]
  if len(content["frames"]) < 2:
    raise SceneError(
      f"{CAMERAS}: fewer than two of its frames have a picture among the files that were dropped; "
      "drop the pictures together with it"
    )
  (folder / CAMERAS).write_text(json.dumps(content))


def _has_picture(folder: pathlib.Path, frame: dict) -> bool:
  path = folder / str(frame.get("file_path", ""))
  return path.is_file() or path.with_suffix(".png").is_file()


def _clean_cameras(folder: pathlib.Path) -> None:
  """Has the cameras name pictures as these are named now. Refuses what lies elsewhere."""
  content = _read_cameras(folder)
  for index, frame in enumerate(content["frames"]):
    for key in _PATHS:
      if not isinstance(path := frame.get(key), str):
        continue
      parts = pathlib.PurePosixPath(path.replace("\\", "/")).parts
      if path.startswith("/") or ".." in parts or ":" in path:
        raise SceneError(
          f"{CAMERAS}: frame {index} has the {key} {path!r}, which leads out of the scene's "
          "folder; make it relative to the file"
        )
      frame[key] = "/".join(map(_clean, parts))
  (folder / CAMERAS).write_text(json.dumps(content))


def _read_cameras(folder: pathlib.Path) -> dict:
  try:
    content = json.loads((folder / CAMERAS).read_bytes())
    frames = content["frames"]
    if isinstance(frames, list) and all(isinstance(frame, dict) for frame in frames):
      return content
  except (ValueError, KeyError, TypeError, RecursionError):
    pass
  raise SceneError(f"{CAMERAS}: is no JSON with a list of frames; export it again")


def _check_picture(file: pathlib.Path) -> None:
  if file.name == CAMERAS:
    return
  try:
    with Image.open(file, formats=("PNG", "JPEG", "TIFF", "BMP")) as picture:
      pixels = picture.width * picture.height
      picture.verify()
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
    raise SceneError(
      f"{file.name}: is not a picture that can be read; save it again as PNG or JPEG"
    ) from error
  if pixels > MOST_PIXELS:
    raise SceneError(
      f"{file.name}: has {pixels / 1e6:.0f} megapixels, more than {MOST_PIXELS / 1e6:.0f}; make it "
      "smaller"
    )


def _wanted(name: str) -> bool:
  return name == CAMERAS or pathlib.PurePosixPath(name).suffix.lower() in PICTURES


def _refuse_many(files: int, size: int) -> None:
  if files > MOST_FILES:
    raise SceneError(f"{files} files are more than the {MOST_FILES} accepted; leave some out")
  if size > MOST_BYTES:
    raise SceneError(
      f"{size / 1e6:.0f} MB are more than the {MOST_BYTES / 1e6:.0f} accepted; leave some out"
    )


def _refuse_no_pictures(folder: pathlib.Path) -> None:
  if not any(path.suffix.lower() in PICTURES for path in folder.rglob("*")):
    raise SceneError("there is no picture among the files; drop photographs as PNG or JPEG")


def _clean(name: str) -> str:
  """A file's name without folders and without signs that mean something to a shell or a system."""
  name = unicodedata.normalize("NFC", name.replace("\\", "/")).rpartition("/")[2]
  path = pathlib.PurePosixPath(re.sub(r"[^\w.\- ()]", "_", name).strip(" .") or "_")
  return f"{path.stem[:80]}{path.suffix[:10]}"


def _hash(folder: pathlib.Path) -> str:
  total = hashlib.sha256()
  for file in sorted(path for path in folder.rglob("*") if path.is_file()):
    total.update(str(file.relative_to(folder)).encode())
    total.update(hashlib.sha256(file.read_bytes()).digest())
  return total.hexdigest()[:8]
