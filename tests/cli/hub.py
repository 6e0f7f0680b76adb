"""A Hugging Face hub of one's own: as much of its protocol as downloads need."""

import contextlib
import hashlib
import http.server
import json
import pathlib
import threading
import urllib.parse
from collections.abc import Iterator

COMMIT = "c0ffee" + "0" * 34


class _Hub(http.server.BaseHTTPRequestHandler):
  def do_HEAD(self):
    self._answer()

  def do_GET(self):
    self._answer()

  def log_message(self, *_):
    pass

  def _answer(self):
    parts = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).strip("/").split("/")
    if parts[:2] == ["api", "models"]:
      self._describe("/".join(parts[2:4]), parts[4:])
    else:
      self._send_file("/".join(parts[:2]), "/".join(parts[4:]))  # owner/name/resolve/commit/file

  def _describe(self, repository: str, request: list[str]):
    folder = self.server.repositories / repository
    if not folder.is_dir():
      self._send(401, {"X-Error-Code": "RepoNotFound"})
      return
    if request[:1] == ["revision"] and request[1] not in ("main", COMMIT):
      self._send(404, {"X-Error-Code": "RevisionNotFound"})
      return
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    if request[:1] == ["tree"]:
      listing = [
        {"type": "file", "path": name, "size": path.stat().st_size, "oid": _etag(path)}
        for name, path in files.items()
      ]
      self._send(200, {}, json.dumps(listing).encode())
      return
    siblings = [{"rfilename": name} for name in files]
    described = {"id": repository, "sha": COMMIT, "siblings": siblings}
    self._send(200, {}, json.dumps(described).encode())

  def _send_file(self, repository: str, name: str):
    file = self.server.repositories / repository / name
    if not file.is_file():
      self._send(404, {"X-Error-Code": "EntryNotFound"})
      return
    if repository == self.server.gated:
      self._send(403, {"X-Error-Code": "GatedRepo"})
      return
    self.server.sent.add(name)
    self._send(200, {"X-Repo-Commit": COMMIT, "ETag": f'"{_etag(file)}"'}, file.read_bytes())

  def _send(self, status: int, headers: dict[str, str], body: bytes = b""):
    self.send_response(status)
    for key, value in (headers | {"Content-Length": str(len(body))}).items():
      self.send_header(key, value)
    self.end_headers()
    if self.command == "GET":
      self.wfile.write(body)


def _etag(file: pathlib.Path) -> str:
  return hashlib.sha1(file.read_bytes()).hexdigest()


@contextlib.contextmanager
def serve(repositories: pathlib.Path, gated: str = "") -> Iterator[tuple[str, set[str]]]:
  """Serves folders owner/name on this machine; gives the address and the set of files sent."""
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub) as server:
    server.repositories, server.gated, server.sent = repositories, gated, set()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", server.sent
    server.shutdown()
