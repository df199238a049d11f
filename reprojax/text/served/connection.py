"""HTTP requests to one server, with timeouts and retries, and no redirects."""

import asyncio
import os
import random
import threading
from collections.abc import Coroutine, Mapping
from typing import Any, NamedTuple

MOST_BYTES = 16 << 20  # of a reply; one that lists a whole vocabulary has about 10 MB
LEAST = 0.05  # seconds, the shortest useful attempt
MOST_WAIT = 120.0  # seconds between two attempts, even if the server asks for more
AGAIN = (408, 409, 425, 429)  # statuses to retry, as are all from 500
OPENAI = "https://api.openai.com/v1"


class Unanswered(OSError):
    """A server refused a request, or did not answer it: it was not paid.

    Attributes:
        status: of the HTTP reply; 0 if there was none.
    """

    def __init__(self, text: str, status: int = 0, wait: float | None = None):
        super().__init__(text)
        self.status, self.wait = status, wait

    @property
    def passes(self) -> bool:
        """Whether to try again."""
        return self.status == 0 or self.status in AGAIN or self.status >= 500


class Server(NamedTuple):
    """The address of requests, and their headers."""

    url: str
    headers: Mapping[str, str]


def server(url: str | None, key: str | None) -> Server:
    """The server at url; None means OpenAI, which alone gets the environment's key.

    Raises:
        ValueError: the address is malformed, the key cannot be a header's value, or
            OpenAI has no key.
    """
    named: dict[str, str | None] = {}
    if url is None:
        key = os.environ.get("OPENAI_API_KEY", "") if key is None else key
        named["OpenAI-Organization"] = os.environ.get("OPENAI_ORG_ID")
        named["OpenAI-Project"] = os.environ.get("OPENAI_PROJECT_ID")
    if key == "" or not (key or "").isascii() or not (key or "").isprintable():
        raise ValueError(
            f"got a key of {len(key or '')} characters that cannot be sent, expected "
            "printable ASCII; give key=, or OPENAI_API_KEY for OpenAI"
        )
    named["Authorization"] = f"Bearer {key}" if key else None
    return Server(_address(url), {k: v for k, v in named.items() if v})


def _address(url: str | None) -> str:
    from urllib.parse import urlsplit

    address = OPENAI if url is None else url.rstrip("/")
    parts = urlsplit(address)
    try:
        _ = parts.port
    except ValueError as error:
        raise ValueError(
            f"got {url!r} as the server's address ({error}), expected "
            "http://host:port/v1 with a port up to 65535"
        ) from error
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in address:
        raise ValueError(
            f"got {parts.hostname or url!r} as the server's address, expected "
            "http://host:port/v1 or https://..., without a user or password; give "
            "key= for what authorises"
        )
    return address


class Connection:
    """Attempts, retries and waits on an event loop of its own thread.

    The caller's thread only waits, so that Ctrl-C reaches it at once.

    Args:
        retries: attempts after the first, if `Unanswered.passes`.
        timeout: seconds of one attempt, from the connection to the reply's last byte.
            All attempts and waits take (retries + 1) * timeout at most.
    """

    def __init__(self, to: Server, retries: int, timeout: float) -> None:
        self.url, self.retries, self.timeout = to.url, retries, timeout
        self._client = _client(to.headers)
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        assert self._loop is not None
        self.run(self._finish())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._loop = None

    async def _finish(self) -> None:
        work = asyncio.all_tasks() - {asyncio.current_task()}
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        await self._client.aclose()

    def run(self, work: Coroutine) -> Any:
        """The result of `work`; an interrupt of the wait cancels it."""
        if self._loop is None:
            work.close()
            raise ValueError(
                "the endpoint is not open; use it inside `with Endpoint(...) as far:`"
            )
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def post(self, path: str, body: Mapping[str, Any]) -> bytes:
        """The body of a reply of status 200, at most its first `MOST_BYTES` + 1 bytes.

        Raises:
            Unanswered: no attempt was answered; nothing was paid.
        """
        now = asyncio.get_running_loop().time
        end = now() + (self.retries + 1) * self.timeout
        for tried in range(self.retries + 1):
            left = max(min(self.timeout, end - now()), LEAST)
            try:
                return await self._attempt(path, body, left)
            except Unanswered as error:
                wait = _wait(tried) if error.wait is None else error.wait
                late = now() + wait > end - LEAST
                if late or tried == self.retries or not error.passes:
                    raise
            await asyncio.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(
        self, path: str, body: Mapping[str, Any], seconds: float
    ) -> bytes:
        import httpx2

        data = bytearray()
        try:
            async with asyncio.timeout(seconds):
                send = self._client.stream("POST", f"{self.url}/{path}", json=body)
                async with send as reply:
                    async for part in reply.aiter_raw():
                        data += part
                        if len(data) > MOST_BYTES:
                            break
        except TimeoutError:
            raise Unanswered(
                f"{self.url} did not answer within timeout={seconds:.3g} s, "
                f"{len(data)} bytes arrived; give a larger timeout, or ask for less"
            ) from None
        except httpx2.TransportError as error:
            raise Unanswered(
                f"{self.url} did not answer: {error or type(error).__name__}; is it "
                "running, and is the address right?"
            ) from error
        if reply.status_code != 200:
            raise self._refusal(reply, bytes(data[:300]))
        return bytes(data)

    def _refusal(self, reply: Any, said: bytes) -> Unanswered:
        where = reply.headers.get("location")
        if 300 <= reply.status_code < 400 and where:
            said = f"see {where}; nothing is sent to another address".encode()
        return Unanswered(
            f"{self.url} answered {reply.status_code} {reply.reason_phrase}: "
            f"{said.decode('utf8', 'replace')}",
            reply.status_code,
            _asked_wait(reply.headers),
        )


def _client(headers: Mapping[str, str]) -> Any:
    try:
        import httpx2
    except ImportError:
        raise ValueError(
            "an endpoint needs httpx2, which is not installed: "
            "pip install 'reprojax[endpoint]'"
        ) from None
    # No compression: a small compressed reply may expand to a huge one.
    plain = {"Accept-Encoding": "identity", **headers}
    return httpx2.AsyncClient(headers=plain, timeout=None, follow_redirects=False)


def _wait(tried: int) -> float:
    """Exponential backoff with jitter, so that clients do not retry in step."""
    return min(0.5 * 2**tried, 8.0) * (1 - random.random() / 4)


def _asked_wait(headers: Mapping[str, str]) -> float | None:
    """The seconds that a server asks to wait; None if it does not say."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue  # not given, or a date: use the usual wait
        if seconds >= 0:  # false for NaN
            return min(seconds, MOST_WAIT)
    return None
