"""A run that is killed ten times, against a service that writes a bill."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jax
import numpy as np
import pytest
from fitting import FORWARD, FROZEN

ANSWER = jax.jit(FORWARD)
BUDGET = 1000
RUN = """
import sys, json, http.client
sys.path.insert(0, sys.argv[3])
import numpy as np
from fitting import TASK, SOURCES, TARGETS
from jax.nn.initializers import zeros
from reprojax import reprogram
from reprojax.alignments import bayesian
from reprojax.training.black_box import fit_black_box, only_answers
from reprojax.formats import learnable
from reprojax.operators import add
from reprojax.searches import Oracle, spsa

def answer(images, *key):
    service = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
    headers = {"Idempotency-Key": key[0]} if key else {}
    service.request("POST", "/", np.asarray(images, "<f4").tobytes(), headers)
    reply = service.getresponse()
    return np.array(json.loads(reply.read()))

keyed = sys.argv[4] == "keyed"
oracle = Oracle(answer, SOURCES, name="loopback", chunk=8, keyed=keyed, wait=0.1)
program = reprogram(
    only_answers(oracle, 8).forward,
    {"normalized": add(learnable(zeros)), "output": bayesian(TARGETS)},
)
fitted = fit_black_box(
    program, oracle, TASK, spsa(0.1, 0.1, count=2), budget=1000, batch=4,
    checks=2, log=sys.argv[2], progress=False,
)
print(np.asarray(fitted.last.learnable["normalized"]).tobytes().hex())
"""


class Service:
    """Answers over HTTP on the loopback, and remembers what it was paid for."""

    def __init__(self):
        self.billed, self.by_key, self.lock = [], {}, threading.Lock()
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                size = int(self.headers["Content-Length"])
                body = service.reply(
                    self.rfile.read(size), self.headers.get("Idempotency-Key")
                )
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.handle_error = lambda *args: None  # a client that was killed
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def reply(self, body, key):
        images = np.frombuffer(body, "<f4").reshape(-1, 8, 8, 3)
        with self.lock:
            if key not in self.by_key or key is None:
                self.billed += [image.tobytes() for image in images]
                time.sleep(0.02)  # so that kills find a request under way
                answer = np.asarray(ANSWER(FROZEN, images)).tolist()
                self.by_key[key] = json.dumps(answer).encode()
            return self.by_key[key]

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def start(service, log, keyed):
    return subprocess.Popen(
        [
            *(sys.executable, "-c", textwrap.dedent(RUN), str(service.port), str(log)),
            *(str(Path(__file__).parents[1]), keyed),
        ],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=Path(__file__).parents[2],
    )


def end(process):
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def to_the_end(service, log, keyed):
    process = start(service, log, keyed)
    try:
        out, _ = process.communicate(timeout=300)
    finally:
        if process.poll() is None:
            end(process)
    assert process.returncode == 0
    return out.strip()


@pytest.mark.slow
@pytest.mark.parametrize("keyed", ["keyed", "plain"])
def test_ten_kills(tmp_path, keyed):
    straight, service = Service(), Service()
    try:
        wanted = to_the_end(straight, tmp_path / "straight", keyed)
        assert len(straight.billed) == BUDGET  # met exactly
        draw, kills = random.Random(0), 0
        while kills < 10:
            process = start(service, tmp_path / "log", keyed)
            before = len(service.billed)
            goal = before + draw.randint(1, 12) * 8
            while len(service.billed) < goal and process.poll() is None:
                time.sleep(0.001)
            assert process.poll() is None
            time.sleep(draw.uniform(0, 0.03))
            end(process)
            kills += 1
        found = to_the_end(service, tmp_path / "log", keyed)
    finally:
        straight.close()
        service.close()
    assert found == wanted  # the same bits
    again = len(service.billed) - BUDGET
    print(f"{keyed}: ten kills, {again} queries paid again")
    assert again == 0 if keyed == "keyed" else 0 <= again <= 10 * 8
    # In the order of a run that nobody killed; what is paid again follows at once.
    left = list(service.billed)
    for image in straight.billed:
        assert image in left
        left.remove(image)
    assert len(left) == again
