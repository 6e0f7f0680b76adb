"""A bucket in this process's memory behind gs://, for epath and for fsspec."""

import fsspec
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem


class Bucket(MemoryFileSystem):
  """As an object store: objects appear whole, and there is no appending."""

  protocol = ("gs", "gcs")
  store, pseudo_dirs = {}, [""]

  @classmethod
  def _strip_protocol(cls, path):
    return super()._strip_protocol(str(path).removeprefix("gs://").removeprefix("gcs://"))

  def _open(self, path, mode="rb", **kwargs):
    assert mode in ("rb", "wb", "xb"), mode
    return super()._open(path, mode, **kwargs)


def mounted(monkeypatch) -> Bucket:
  """An empty one, for as long as the test runs."""
  monkeypatch.setattr(Bucket, "store", {})
  monkeypatch.setattr(Bucket, "pseudo_dirs", [""])
  for scheme in Bucket.protocol:
    fsspec.register_implementation(scheme, Bucket, clobber=True)
  type(backend.fsspec_backend)._get_filesystem.cache_clear()
  return Bucket()


def upload(bucket: Bucket, folder, to: str) -> str:
  """Copies a folder of this machine into the bucket and gives its address."""
  for file in folder.rglob("*"):
    if file.is_file():
      bucket.pipe_file(f"{to}/{file.relative_to(folder).as_posix()}", file.read_bytes())
  return to
