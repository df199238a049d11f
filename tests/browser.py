"""A headless Chromium, driven through its pipe: what a page looks like and measures."""

import fcntl
import json
import os
import shutil
import subprocess
from base64 import b64decode
from contextlib import contextmanager

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


class Tab:
    """A page that is open."""

    def __init__(self, into, out):
        self.into, self.out, self.number, self.session = into, out, 0, None
        self.read = b""

    def send(self, method, **params):
        """The answer to a command of the DevTools protocol."""
        self.number += 1
        asked = {"id": self.number, "method": method, "params": params}
        asked |= {"sessionId": self.session} if self.session else {}
        os.write(self.into, json.dumps(asked).encode() + b"\0")
        while (said := self.next()).get("id") != self.number:
            pass
        assert "error" not in said, said
        return said["result"]

    def next(self):
        """The next message."""
        while b"\0" not in self.read:
            more = os.read(self.out, 1 << 20)
            assert more, "the browser has ended"
            self.read += more
        message, _, self.read = self.read.partition(b"\0")
        return json.loads(message)

    def open(self, path, width, height=844, dark=False):
        """Show a file in a window of that width, in pixels of a page."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1}
        self.send("Emulation.setDeviceMetricsOverride", mobile=width < 600, **size)
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[theme])
        self.send("Page.navigate", url=path.resolve().as_uri())
        self.run(
            "new Promise(done => document.readyState === 'complete' ? done() : "
            "addEventListener('load', () => done()))"
        )

    def run(self, script):
        """The value of an expression of JavaScript."""
        asked = {"returnByValue": True, "awaitPromise": True, "expression": script}
        said = self.send("Runtime.evaluate", **asked)
        assert "exceptionDetails" not in said, said
        return said["result"].get("value")

    def shoot(self, path, whole=False):
        """Keep what is seen as a PNG."""
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(b64decode(shot["data"]))


@contextmanager
def chromium(folder):
    """A tab of a new browser that keeps its files in the folder."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        raise FileNotFoundError(
            f"got none of {NAMES} on the path, expected a browser; install chromium, "
            "or leave the tests marked verify out"
        )
    theirs, into = pipe()
    out, ours = pipe()
    # The browser reads from descriptor 3 and writes to 4.
    script = f'exec "$0" "$@" 3<&{theirs} 4>&{ours}'
    line = ["bash", "-c", script, program, *FLAGS, f"--user-data-dir={folder}"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = subprocess.Popen(line, pass_fds=(theirs, ours), **quiet)
    os.close(theirs)
    os.close(ours)
    tab = Tab(into, out)
    try:
        target = tab.send("Target.createTarget", url="about:blank")["targetId"]
        own = tab.send("Target.attachToTarget", targetId=target, flatten=True)
        tab.session = own["sessionId"]
        tab.send("Page.enable")
        yield tab
    finally:
        running.terminate()
        running.wait()
        os.close(into)
        os.close(out)


def pipe():
    """Its ends, above those that the browser wants for itself."""
    return [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in os.pipe()]
