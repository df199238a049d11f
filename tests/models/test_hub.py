"""Weights by name, from a server on this machine that speaks as the hub does."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import model_files as files
import pytest

from reprojax.models import fingerprint, load

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LOAD = """
import sys
from reprojax.models import fingerprint, load
for name in sys.argv[1:]:
    try:
        model = load(name)
        print(model.name, model.size, model.classes[1], fingerprint(model.frozen))
    except ValueError as error:
        print(error)
"""


class Hub(BaseHTTPRequestHandler):
    """One repository, "lab/tiny", at one commit."""

    def do_GET(self):
        path = self.path.split("?")[0]
        named = {file.name: file for file in self.server.folder.iterdir()}
        if path == "/api/models/lab/tiny/revision/main":
            siblings = [{"rfilename": name} for name in named]
            body = {"id": "lab/tiny", "sha": COMMIT, "siblings": siblings}
            return self.answer(200, json.dumps(body).encode())
        if path == f"/api/models/lab/tiny/tree/{COMMIT}":
            tree = [
                {"type": "file", "path": n, "size": f.stat().st_size, "oid": etag(f)}
                for n, f in named.items()
            ]
            return self.answer(200, json.dumps(tree).encode())
        name = path.removeprefix(f"/lab/tiny/resolve/{COMMIT}/")
        if name in named:
            self.server.sent.append((self.command, name))
            return self.answer(200, named[name].read_bytes(), etag(named[name]))
        return self.answer(404, b"{}", code="RepoNotFound")

    do_HEAD = do_GET

    def answer(self, status, body, tag="", code=""):
        self.send_response(status)
        headers = {"Content-Length": len(body), "Content-Type": "application/json"}
        headers |= {"X-Repo-Commit": COMMIT, "ETag": f'"{tag}"', "X-Error-Code": code}
        for name, value in headers.items():
            if value:
                self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        """Quiet."""


def etag(file):
    return hashlib.sha1(file.read_bytes()).hexdigest()


@pytest.fixture
def hub(tmp_path):
    folder = files.write_shards(tmp_path / "repository", files.vit())
    labels = {str(i): f"bird {i}" for i in range(5)}
    (folder / "config.json").write_text(json.dumps({"id2label": labels}))
    (folder / "pytorch_model.bin").write_bytes(b"a pickle that nobody wants")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.folder, server.sent = folder, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def loaded(endpoint, home, *names):
    """What another Python prints, as the hub's package reads its address on import."""
    own = dict(HF_ENDPOINT=endpoint, HF_HOME=str(home), HF_HUB_OFFLINE="0")
    own |= dict(NO_PROXY="127.0.0.1", no_proxy="127.0.0.1")
    command = [sys.executable, "-c", LOAD, *names]
    done = subprocess.run(
        command, env=os.environ | own, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_a_hub_model_is_fetched_once_and_kept(hub, tmp_path):
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    line, absent = loaded(endpoint, tmp_path / "home", "lab/tiny", "lab/absent")
    frozen = load(hub.folder).frozen
    assert line == f"lab/tiny 16 bird 1 {fingerprint(frozen)}"
    assert absent.startswith("the hub has no model 'lab/absent'")
    got = sorted(name for command, name in hub.sent if command == "GET")
    assert got == sorted({f.name for f in hub.folder.iterdir()} - {"pytorch_model.bin"})

    nowhere = "http://127.0.0.1:9"  # no network: the copy, or what to do
    line, absent = loaded(nowhere, tmp_path / "home", "lab/tiny", "lab/absent")
    assert line.endswith(fingerprint(frozen))
    assert "with no network, give load() a folder" in absent


def test_without_the_hubs_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match="pip install huggingface-hub"):
        load("lab/tiny")
