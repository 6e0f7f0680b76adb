"""Folders that lie elsewhere, in a bucket (gs://, s3://): worked with in a copy on this machine.

A bucket has no appending, no renaming of folders, and no half files. So what is read is copied here
once, and what is written is written here and copied back whenever a state has been saved. Copies
lie in the user's cache folder; one that is lost is made again.
"""

import concurrent.futures
import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterator
from typing import Any

import fsspec
from etils import epath

from imx2mx_jax.errors import ConfigError, RemoteError, UserError

_UNFINISHED = re.compile(r"\.orbax-checkpoint-tmp|(^|/)\.[^/]*\.tmp$")  # what is being written
_KNOWN = ".copied"  # beside a copy: what it was like when it was like the folder
_FIRST = "config.json"  # says whose folder it is
_LAST = ("_CHECKPOINT_METADATA", "model.json", "finished.json")  # each: what precedes is there
_SMALL = 2**24  # bytes of a file that is read at once, so that it may grow meanwhile
_AT_ONCE = 8  # files


def is_remote(path: str | os.PathLike) -> bool:
  """Whether a path leads elsewhere."""
  return "://" in os.fspath(path)


def here(path: str | os.PathLike) -> pathlib.Path:
  """A folder to be read: the path itself, or the copy of one that lies elsewhere.

  A process copies a folder once. Raises RemoteError where it cannot.
  """
  return _fetched(os.fspath(path)) if is_remote(path) else pathlib.Path(path)


@functools.cache
def _fetched(url: str) -> pathlib.Path:
  copy = Copy(url)
  copy.fetch()
  return copy.path


def filesystem(path: str | os.PathLike) -> tuple[fsspec.AbstractFileSystem, str]:
  """The filesystem of a path elsewhere, and the path in it. ConfigError where it has none here."""
  try:
    return fsspec.core.url_to_fs(os.fspath(path))
  except ImportError as error:
    raise ConfigError(
      f"{path} cannot be reached ({error}); gs:// needs `pip install 'imx2mx_jax[gcs]'`"
    ) from error
  except ValueError as error:
    raise ConfigError(f"{path} cannot be reached ({error}); gs:// is for buckets") from error


class Copy:
  """A folder's copy on this machine. path: of the copy."""

  def __init__(self, url: str | os.PathLike):
    self._url = os.fspath(url).rstrip("/")
    self._fs, root = filesystem(self._url)
    self._root = root.rstrip("/")
    digest = hashlib.sha256(self._url.encode()).hexdigest()[:12]
    self.path = _copies() / digest / self._url.rpartition("/")[2]  # its name is a run's

  def fetch(self) -> None:
    """Makes the copy like the folder; what it has already is not read again."""
    with self._alone(), reaching(self._url):
      there, known = self._there(), self._known()
      for name, fingerprint in there.items():
        if known.get(name) != [fingerprint, *_stamp(self.path / name)]:
          self._get(name)
      for file in self._files().keys() - there.keys():
        (self.path / file).unlink()
      for folder in sorted(self.path.rglob("*"), reverse=True):  # the innermost first
        if folder.is_dir() and not any(folder.iterdir()):
          folder.rmdir()
      self._remember(there, self._files())

  def push(self) -> None:
    """Makes the folder like the copy. What others wait for comes last, what is gone goes last.

    Files may be written meanwhile; such a file is sent as it was, or as it is, and again next time.
    """
    with reaching(self._url), concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
      there, known, files = self._there(), self._known(), self._files()
      new = [name for name in files if known.get(name) != [there.get(name), *files[name]]]
      for rank in sorted(set(map(_rank, new))):
        [*pool.map(self._put, (name for name in new if _rank(name) == rank))]
      for name in there.keys() - files.keys():
        self._fs.rm_file(f"{self._root}/{name}")
      self._remember(self._there(), files)

  def delete(self) -> None:
    """The copy goes; the folder stays."""
    shutil.rmtree(self.path.parent, ignore_errors=True)

  def _put(self, name: str) -> None:
    file, there = self.path / name, f"{self._root}/{name}"
    if file.stat().st_size < _SMALL:
      self._fs.pipe_file(there, file.read_bytes())
    else:
      self._fs.put_file(str(file), there)

  def _get(self, name: str) -> None:
    """A file, whole or not at all."""
    file = self.path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.tmp")
    self._fs.get_file(f"{self._root}/{name}", str(temporary))
    temporary.replace(file)

  def _there(self) -> dict[str, str]:
    """{name: what changes with the file's content}, of the files in the folder, but for claims."""
    self._fs.invalidate_cache()
    found = self._fs.find(self._root, detail=True)
    if list(found) == [self._root]:  # a file by itself
      raise NotADirectoryError(self._url)
    names = {path[len(self._root) :].lstrip("/"): info for path, info in found.items()}
    return {name: _fingerprint(info) for name, info in names.items() if not _is_claim(name)}

  def _files(self) -> dict[str, list[int]]:
    """{name: size and time}, of the files in the copy."""
    found = [path for path in self.path.rglob("*") if path.is_file()]
    names = {path.relative_to(self.path).as_posix(): path for path in found}
    whole = {name: path for name, path in names.items() if not _UNFINISHED.search(name)}
    return {name: _stamp(path) for name, path in whole.items() if not _is_claim(name)}

  def _known(self) -> dict[str, list[Any]]:
    """{name: what the file was there and here} when both were alike."""
    file = self.path.parent / _KNOWN
    return json.loads(file.read_text()) if file.exists() else {}

  def _remember(self, there: dict[str, str], files: dict[str, list[int]]) -> None:
    alike = {name: [there.get(name), *stamp] for name, stamp in files.items()}
    self.path.mkdir(parents=True, exist_ok=True)
    temporary = self.path.parent / f"{_KNOWN}.tmp"
    temporary.write_text(json.dumps(alike))
    temporary.replace(self.path.parent / _KNOWN)

  @contextlib.contextmanager
  def _alone(self) -> Iterator[None]:
    """Lets one process of this machine at a time into the copy."""
    self.path.parent.mkdir(parents=True, exist_ok=True)
    with (self.path.parent / ".lock").open("w") as file:
      fcntl.flock(file, fcntl.LOCK_EX)
      yield


def read_bytes(file: epath.Path) -> bytes:
  """A file's content. Raises OSError where there is none, RemoteError where a bucket is away."""
  with reaching(file, FileNotFoundError, IsADirectoryError):
    return file.read_bytes()


def write_bytes(file: epath.Path | pathlib.Path, content: bytes) -> None:
  """Writes a file of this machine, whole or not at all, and its folder where there is none."""
  file.parent.mkdir(parents=True, exist_ok=True)
  temporary = file.with_name(f".{file.name}.tmp")
  temporary.write_bytes(content)
  temporary.replace(file)


@contextlib.contextmanager
def reaching(path: str | os.PathLike, *lets: type[Exception]) -> Iterator[None]:
  """Turns a failure on the way to a path elsewhere into a RemoteError.

  What stays what it is: a UserError, the exceptions `lets`, this machine's full disk.
  """
  if not is_remote(path):
    yield
    return
  filesystem(path)
  try:
    yield
  except (UserError, *lets):
    raise
  except Exception as error:  # each kind of bucket raises its own
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
      raise
    first = str(error).partition("\n")[0]
    raise RemoteError(
      f"{path} cannot be reached ({type(error).__name__}: {first}); mend that, then the same "
      "command goes on"
    ) from error


def _rank(name: str) -> int:
  """What says whose folder it is comes first, what says that others are there after them."""
  last = pathlib.PurePath(name).name
  return 1 + _LAST.index(last) if last in _LAST else -(name == _FIRST)


def _copies() -> pathlib.Path:
  caches = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  return pathlib.Path(caches) / "imx2mx_jax" / "copies"


def _fingerprint(info: dict[str, Any]) -> str:
  content = json.dumps(info, sort_keys=True, default=str)
  return hashlib.sha256(content.encode()).hexdigest()[:16]


def _stamp(file: pathlib.Path) -> list[int]:
  if not file.is_file():
    return []
  stat = file.stat()
  return [stat.st_size, stat.st_mtime_ns]


def _is_claim(name: str) -> bool:
  return pathlib.Path(name).name.startswith(".claim.")
