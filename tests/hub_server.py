"""A server on this machine that speaks as the Hugging Face hub does."""

import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


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


@contextlib.contextmanager
def serving(folder):
    """The server of a folder; `.sent` is what was asked of it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.folder, server.sent = folder, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def environment(server, home):
    """Where another Python is to look for the hub, and keep what it fetches."""
    address = f"http://127.0.0.1:{server.server_port}"
    own = dict(HF_ENDPOINT=address, HF_HOME=str(home), HF_HUB_OFFLINE="0")
    return own | dict(NO_PROXY="127.0.0.1", no_proxy="127.0.0.1")
