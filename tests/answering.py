"""A server of ours on the loopback that says what a test scripts."""

import contextlib
import http.server
import json
import threading
from contextlib import contextmanager

from reprojax.text.served import Endpoint


class Server:
    """answer(path, body) -> a JSON value, bytes, or (status, headers, JSON value)."""

    def __init__(self, answer, port=0):
        self.seen, self.headers, outer = [], [], self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.seen.append(body)
                outer.headers.append(dict(self.headers))
                said = answer(self.path, body)
                status, more, said = said if type(said) is tuple else (200, {}, said)
                data = said if isinstance(said, bytes) else json.dumps(said).encode()
                self.send_response(status)
                headers = {"content-type": "application/json", **more}
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                with contextlib.suppress(OSError):  # the other side went away
                    self.wfile.write(data)

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}/v1"
        loop = self.server.serve_forever
        self.thread = threading.Thread(target=loop, args=(0.01,))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def choice(text, index=0, why="stop", **kw):
    return {"index": index, "text": text, "finish_reason": why, **kw}


def said(*choices, prompt=3, tokens=5):
    usage = {"prompt_tokens": prompt, "completion_tokens": tokens}
    return {"choices": list(choices), "usage": usage}


def upper(path, body):
    return said(choice(body["prompt"].upper()))


@contextmanager
def far(answer, port=0, **kw):
    with Server(answer, port) as server, connected(server.url, **kw) as endpoint:
        yield server, endpoint


def connected(url, **kw):
    return Endpoint("tiny", url, **{"budget": 100, "retries": 0, **kw})
