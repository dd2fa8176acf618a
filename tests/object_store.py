"""A stand-in for Google Cloud Storage on loopback: as much of its JSON API as Beam's clients use.

`STORAGE_EMULATOR_HOST`, which Google's own client obeys, leads them to it; credentials are none.
"""

import base64
import contextlib
import http.server
import json
import re
import threading
import urllib.parse

import google_crc32c
from apache_beam.internal.gcp import auth


class Store:
    """Objects by "bucket/name", and what was fetched: (name, bytes) a download."""

    def __init__(self):
        self.objects: dict[str, bytes] = {}
        self.downloads: list[tuple[str, int]] = []

    def put_folder(self, folder, prefix):
        """Uploads the files of a folder under a prefix, `gs://bucket/...`; returns it."""
        for path in folder.iterdir():
            if path.is_file():
                self.objects[f"{prefix.removeprefix('gs://')}/{path.name}"] = path.read_bytes()
        return prefix

    def metadata(self, name):
        bucket, path = name.split("/", 1)
        data = self.objects[name]
        return {
            "bucket": bucket,
            "name": path,
            "id": name,
            "size": str(len(data)),
            "generation": "1",
            "crc32c": base64.b64encode(google_crc32c.Checksum(data).digest()).decode(),
        }


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    @property
    def _store(self) -> Store:
        return self.server.store

    def _answer(self, body, status=200, **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _parsed(self):
        """The object's "bucket/name" in the address, or the bucket alone, and the parameters."""
        url = urllib.parse.urlsplit(self.path)
        found = re.match(r"(?:/upload|/download)?/storage/v1/b/([^/]+)(?:/o(?:/(.+))?)?$", url.path)
        bucket, name = found.groups()
        name = f"{bucket}/{urllib.parse.unquote(name)}" if name else ""
        return bucket, name, dict(urllib.parse.parse_qsl(url.query))

    def do_GET(self):
        bucket, name, parameters = self._parsed()
        if not name:
            return self._answer({"name": bucket, "id": bucket})
        if name not in self._store.objects:
            return self._answer({"error": {"code": 404, "message": f"No such object: {name}"}}, 404)
        if parameters.get("alt") != "media":
            return self._answer(self._store.metadata(name))
        data = self._store.objects[name]
        first, last = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "bytes=0-")).groups()
        part = data[int(first) : int(last) + 1 if last else None]
        if not part:
            return self._answer(b"", 416)
        self._store.downloads.append((name, len(part)))
        content_range = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
        return self._answer(part, 206, Content_Range=content_range)

    def do_POST(self):
        """Begins an upload."""
        bucket, _, parameters = self._parsed()
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        name = parameters.get("name") or body["name"]
        host, port = self.server.server_address
        query = urllib.parse.urlencode({"name": name})
        self._answer(b"", Location=f"http://{host}:{port}/upload/storage/v1/b/{bucket}/o?{query}")

    def do_PUT(self):
        """The bytes of an upload, in one or several parts."""
        bucket, _, parameters = self._parsed()
        name = f"{bucket}/{parameters['name']}"
        part = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        first, total = re.match(r"bytes (\d+|\*).*/(\d+|\*)", self.headers["Content-Range"]).groups()
        begun = self._store.objects.get(name, b"")[: int(first) if first.isdigit() else None]
        self._store.objects[name] = begun + part
        if total == "*":
            return self._answer(b"", 308, Range=f"bytes=0-{len(self._store.objects[name]) - 1}")
        return self._answer(self._store.metadata(name))


@contextlib.contextmanager
def running(monkeypatch):
    """A store that Beam's `gs://` leads to."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads, server.store = True, Store()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://{}:{}".format(*server.server_address))
    monkeypatch.setattr(auth._Credentials, "_credentials_init", True)
    monkeypatch.setattr(auth._Credentials, "_credentials", None)
    try:
        yield server.store
    finally:
        server.shutdown()
        server.server_close()
