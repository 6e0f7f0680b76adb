"""Folders in a bucket are worked with in a copy, and the bucket never has half a story."""

import errno
import json
import threading

import pytest
from etils import epath

from imx2mx_jax import claims, jobs, remote, scene, weights
from imx2mx_jax.errors import ClaimError, ConfigError, RemoteError, WeightsError
from tests import bucket as buckets
from tests.cli import support

URL = "gs://bucket/runs/day"


@pytest.fixture
def bucket(monkeypatch, tmp_path):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  remote._fetched.cache_clear()
  return buckets.mounted(monkeypatch)


@pytest.fixture
def read(bucket, monkeypatch):
  """The names of what is read from the bucket."""
  names, get = [], bucket.get_file
  look = lambda self, there, here: names.append(there.rpartition("/")[2]) or get(there, here)
  monkeypatch.setattr(buckets.Bucket, "get_file", look)
  return names


def put(bucket, **files):
  for name, text in files.items():
    bucket.pipe_file(f"{URL}/{name}", text.encode())


def contents(folder):
  files = [file for file in folder.rglob("*") if file.is_file() and file.name[0] != "."]
  return {file.relative_to(folder).as_posix(): file.read_text() for file in files}


def test_a_copy_has_what_the_folder_has_and_reads_again_what_has_changed(bucket, read):
  put(bucket, a="1", b="2")
  copy = remote.Copy(URL)
  copy.fetch()
  assert contents(copy.path) == {"a": "1", "b": "2"} and read == ["a", "b"]
  put(bucket, b="3")
  bucket.rm_file(f"{URL}/a")
  remote.Copy(URL).fetch()
  assert contents(copy.path) == {"b": "3"} and read == ["a", "b", "b"]


def test_what_was_changed_here_and_not_brought_back_is_forgotten(bucket):
  put(bucket, a="1")
  copy = remote.Copy(URL)
  copy.fetch()
  (copy.path / "a").write_text("another")
  (copy.path / "b").write_text("2")
  remote.Copy(URL).fetch()
  assert contents(copy.path) == {"a": "1"}


def test_a_folder_gets_what_is_new_then_what_says_so_and_loses_what_is_gone_last(
  bucket, read, monkeypatch
):
  put(bucket, old="1", same="2")
  copy = remote.Copy(URL)
  copy.fetch()
  (copy.path / "old").unlink()
  for name in (
    "NOTICE",
    "config.json",
    "finished.json",
    "grid.png",
    "state/4/_CHECKPOINT_METADATA",
    "state/4/manifest",
    "student/model.json",
    "student/seva",
  ):
    (copy.path / name).parent.mkdir(parents=True, exist_ok=True)
    (copy.path / name).write_text(name)
  done = []
  for owner, method in ((remote.Copy, "_put"), (buckets.Bucket, "rm_file")):
    way = getattr(owner, method)
    look = lambda self, name, way=way: done.append(name.rpartition("day/")[2]) or way(self, name)
    monkeypatch.setattr(owner, method, look)
  copy.push()
  assert sorted(done[1:5]) == ["NOTICE", "grid.png", "state/4/manifest", "student/seva"]
  assert done[:1] + done[5:] == [
    "config.json",
    "state/4/_CHECKPOINT_METADATA",
    "student/model.json",
    "finished.json",
    "old",
  ]
  copy.push()
  assert len(done) == 9
  remote.Copy(URL).fetch()
  assert read == ["old", "same"]


@pytest.mark.parametrize("small", [0, 2**20])
def test_a_file_that_grows_while_it_is_sent_is_sent_again(bucket, monkeypatch, small):
  monkeypatch.setattr(remote, "_SMALL", small)
  copy = remote.Copy(URL)
  copy.path.mkdir(parents=True)
  (copy.path / "journal").write_text("1")
  send = remote.Copy._put

  def send_and_write(self, name):
    send(self, name)
    (copy.path / "journal").write_text("12")

  with monkeypatch.context() as context:
    context.setattr(remote.Copy, "_put", send_and_write)
    copy.push()
  assert bucket.cat_file(f"{URL}/journal") == b"1"
  copy.push()
  assert bucket.cat_file(f"{URL}/journal") == b"12"


def test_what_an_edit_reads_from_a_bucket_out_of_reach_may_be_tried_again(bucket, monkeypatch):
  def away(*_, **__):
    raise ConnectionResetError("by peer")

  folder = epath.Path("gs://bucket/scene")
  with pytest.raises(FileNotFoundError):
    remote.read_bytes(folder / "transforms.json")
  for method in ("exists", "info", "_open"):
    monkeypatch.setattr(buckets.Bucket, method, away)
  with pytest.raises(RemoteError, match="by peer"):
    remote.read_bytes(folder / "transforms.json")
  with pytest.raises(RemoteError, match="by peer"):
    scene.read_transforms(folder)
  with pytest.raises(RemoteError, match="by peer"):
    jobs.read(folder / "jobs.jsonl", [], folder, "cpu", lambda run: None)


def test_folders_that_are_empty_in_the_bucket_are_not_in_the_copy(bucket):
  put(bucket, **{"state/4": "1", "grid.png": "2"})
  copy = remote.Copy(URL)
  copy.fetch()
  bucket.rm_file(f"{URL}/state/4")
  copy.fetch()
  assert [path.name for path in copy.path.iterdir()] == ["grid.png"]


def test_two_processes_fetch_a_folder_one_after_the_other(bucket, monkeypatch):
  put(bucket, a="1")
  get, inside = bucket.get_file, []

  def slowly(self, there, here):
    inside.append(1)
    threading.Event().wait(0.2)
    get(there, here)
    inside.append(-1)

  monkeypatch.setattr(buckets.Bucket, "get_file", slowly)
  fetches = [threading.Thread(target=remote.Copy(URL).fetch) for _ in range(2)]
  for fetch in fetches:
    fetch.start()
  for fetch in fetches:
    fetch.join()
  assert inside == [1, -1]  # the second one found it there


def test_a_bucket_that_cannot_be_reached_is_told_in_a_sentence(bucket, monkeypatch):
  monkeypatch.setattr(buckets.Bucket, "find", lambda *_, **__: 1 / 0)
  with pytest.raises(RemoteError, match=f"{URL} cannot be reached .ZeroDivisionError: .*; mend"):
    remote.Copy(URL).fetch()
  with pytest.raises(ConfigError, match="nowhere://x cannot be reached"):
    remote.Copy("nowhere://x")


def test_weights_are_read_from_a_bucket_once(bucket, read):
  source = support.MICRO / "bundled" / "student_vae"
  url = buckets.upload(bucket, source, "gs://bucket/vae")
  for _ in range(2):
    found = weights.load(url, "student_vae")["vae"].params
  assert read == ["model.json", "model.safetensors"]
  for path, own in weights.load(source, "student_vae")["vae"].params.items():
    assert (found[path] == own).all()


def test_weights_that_are_not_in_a_bucket_are_named_by_their_address(bucket):
  with pytest.raises(WeightsError, match=r"gs://bucket/nothing has no model\.json"):
    weights.read_info("gs://bucket/nothing", "student")


def test_a_folder_in_a_bucket_has_one_process_at_a_time(bucket, monkeypatch):
  with claims.claimed(URL), pytest.raises(ClaimError, match=f"{URL} is being written by process"):
    claims.claimed(URL).__enter__()
  elsewhere = json.dumps({"host": "elsewhere", "pid": 1, "began": 0.0})
  bucket.pipe_file(f"{URL}/.claim.3", elsewhere.encode())
  with pytest.raises(ClaimError, match="process 1 on elsewhere"):
    claims.claimed(URL).__enter__()
  monkeypatch.setattr(claims, "_SILENCE", -1.0)
  with claims.claimed(URL):
    assert [path.rpartition("/")[2] for path in bucket.ls(URL, detail=False)] == [".claim.4"]
  assert not bucket.exists(URL)


def test_a_holder_whose_folder_was_taken_over_learns_it(bucket, monkeypatch):
  with claims.claimed(URL) as claim:
    claim.check()
    bucket.pipe_file(f"{URL}/.claim.1", b"{}")
    with pytest.raises(ClaimError, match=f"{URL} was taken over by another process"):
      claim.check()


def test_a_claim_in_a_bucket_that_cannot_be_reached_is_told_in_a_sentence(bucket, monkeypatch):
  monkeypatch.setattr(buckets.Bucket, "ls", lambda *_, **__: 1 / 0)
  with pytest.raises(RemoteError, match=f"{URL} cannot be reached"):
    claims.claimed(URL).__enter__()


def test_a_holder_gives_signs_of_life_in_a_bucket(bucket, monkeypatch):
  monkeypatch.setattr(claims, "_BEAT", 0.01)
  with claims.claimed(URL):
    before = bucket.modified(f"{URL}/.claim.0")
    for _ in range(500):
      if bucket.modified(f"{URL}/.claim.0") > before:
        break
      threading.Event().wait(0.01)
    assert bucket.modified(f"{URL}/.claim.0") > before


def test_a_bucket_that_goes_away_is_told_as_that(bucket, monkeypatch):
  def gone(*_, **__):
    raise OSError("connection reset")

  with pytest.raises(RemoteError, match="gone"), claims.claimed(URL):
    for method in ("put_file", "rm_file", "ls", "cat_file"):
      monkeypatch.setattr(buckets.Bucket, method, gone)
    raise RemoteError("gone")


def test_this_machines_full_disk_is_no_bucket_out_of_reach(bucket, monkeypatch):
  def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")

  put(bucket, a="1")
  monkeypatch.setattr(buckets.Bucket, "get_file", full)
  with pytest.raises(OSError, match="No space left"):
    remote.Copy(URL).fetch()
