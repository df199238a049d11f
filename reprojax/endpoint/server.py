"""A language model behind an OpenAI-compatible server, with budget, log and retries.

    with Endpoint("SmolLM2", "http://127.0.0.1:8000/v1", budget=5000, log="log") as far:
        answers = program.apply(params, far.language, xs)

A request is paid when it is answered, and on disk before its answer is used: a run that
was stopped is started again with the same log, asks in any order, and pays only what is
new. What is under way when the process is killed can be paid twice.
"""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple

from reprojax.endpoint.answers import (
    Asked,
    Malformed,
    packed,
    reply,
    scored,
    unpacked,
)
from reprojax.searches import BudgetSpent
from reprojax.searches.replay import Log
from reprojax.text import Continuation, Language, Reply, Request, Scored


class Settings(NamedTuple):
    """What makes an answer besides its request."""

    model: str
    api: Literal["completions", "chat"]
    system: str | None
    extra: Mapping[str, Any]


class Endpoint:
    """A model on a server, as a `Language`, inside a `with`. Needs `openai`.

    Args:
        url: the API's address, its /v1 included; None is OpenAI's own.
        budget: requests that may be paid, those in the log counted. A request is one
            prompt with all its samples, or one scored continuation.
        log: a file, one run at a time. Without one nothing is kept.
        api: "completions" goes on with a prompt as it stands, and scores where the
            server gives the log-probabilities of an echoed prompt (vLLM does); "chat"
            sends it as a user's message, and cannot score.
        key: by default OPENAI_API_KEY, which is sent to OpenAI alone.
        workers: requests at a time.
        retries: of each request after a lost connection, a timeout, 408, 409, 429 and
            5xx; the client waits as the server says, or ever longer.
        timeout: seconds of one attempt.
        system: a system message, for "chat".
        encode: the model's tokeniser, for token budgets and checks of label words.
        context: the most tokens of a prompt and its answer; what a chat puts around a
            message is not counted, so leave room for it.
        extra: further fields of each request, such as {"min_p": .1}.
    """

    def __init__(
        self,
        model: str,
        url: str | None = None,
        *,
        budget: int,
        log: str | PathLike | None = None,
        api: Literal["completions", "chat"] = "completions",
        key: str | None = None,
        workers: int = 8,
        retries: int = 5,
        timeout: float = 120.0,
        system: str | None = None,
        encode: Callable[[str], Sequence[int]] | None = None,
        context: int | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        if api not in ("completions", "chat") or (system and api != "chat"):
            raise ValueError(
                f"api={api!r} and system={system!r} came, expected 'completions' or "
                "'chat', and a system message with 'chat' alone"
            )
        if budget < 1 or workers < 1 or retries < 0:
            raise ValueError(
                f"budget={budget}, workers={workers} and retries={retries} came, "
                "expected at least 1, 1 and 0"
            )
        self.budget, self.workers, self.encode, self.paid = budget, workers, encode, 0
        self._settings = Settings(model, api, system, dict(extra or {}))
        self._client = _client(url, key, retries, timeout)
        self._log = None if log is None else Log(Path(log))
        self._known: dict[Asked, Reply | Scored] = {}
        self._lock = threading.Lock()  # of the log, the known answers and `paid`
        score = self.score if api == "completions" else None
        self.language = Language(self.complete, score, encode, context)

    def __enter__(self) -> "Endpoint":
        if self._log is not None:
            identity = json.loads(json.dumps(self._settings._asdict()))
            for payload in self._log.read(identity):
                self._remember(*unpacked(payload))
        return self

    def __exit__(self, *error: Any) -> None:
        self._client.close()
        if self._log is not None:
            self._log.close()

    @property
    def left(self) -> int:
        """Requests that the budget still holds."""
        return self.budget - self.paid

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        """From the log, or else from the server."""
        return self._answers(requests, self._complete)

    def score(self, items: Sequence[Continuation]) -> list[Scored]:
        """From the log, or else from the server."""
        return self._answers(items, self._score)

    def _answers(self, asked: Sequence[Any], ask: Callable[[Any], Any]) -> list[Any]:
        todo = [one for one in dict.fromkeys(asked) if one not in self._known]
        if len(todo) > self.left:
            raise BudgetSpent(
                f"{len(todo)} new requests came and {self.left} of {self.budget} are "
                "left; none was sent; give a larger budget, or fewer rows"
            )
        failed = threading.Event()  # what is under way is waited for, and kept
        with ThreadPoolExecutor(self.workers) as pool:
            futures = [pool.submit(self._pay, one, ask, failed) for one in todo]
            try:
                for future in futures:
                    future.result()
            except BaseException as error:
                failed.set()
                error.add_note(self._advice())
                raise
        return [self._known[one] for one in asked]

    def _advice(self) -> str:
        where = "no log" if self._log is None else str(self._log.path)
        return (
            f"{self._settings.model}: what was answered before is kept in {where}; "
            "start again with the same log to go on"
        )

    def _pay(
        self,
        one: Asked,
        ask: Callable[[Any], Reply | Scored],
        failed: threading.Event,
    ) -> None:
        if failed.is_set():
            return
        try:
            self._keep(one, ask(one))
        except Exception as error:
            failed.set()
            if isinstance(error, Malformed):
                self._keep(one, None)
            raise

    def _keep(self, one: Asked, answer: Reply | Scored | None) -> None:
        with self._lock:
            if self._log is not None:
                self._log.write(packed(one, answer))
            self._remember(one, answer)

    def _remember(self, one: Asked, answer: Reply | Scored | None) -> None:
        self.paid += 1
        if answer is not None:
            self._known[one] = answer

    # -- one request

    def _complete(self, request: Request) -> Reply:
        body = {
            "temperature": request.temperature,
            "top_p": request.top_p,
            "n": request.samples,
            "seed": request.seed,
            "stop": list(request.stop) or None,
        }
        more = {"top_k": request.top_k} if request.top_k else {}  # not OpenAI's
        if self._settings.api == "chat":
            body |= {
                "messages": self._messages(request.prompt),
                "max_completion_tokens": request.length,
            }
            found = self._post(self._client.chat.completions, body, more)
        else:
            body |= {"prompt": request.prompt, "max_tokens": request.length}
            found = self._post(self._client.completions, body, more)
        return reply(found, request, self._settings.api, self.encode)

    def _messages(self, prompt: str) -> list[dict[str, str]]:
        system = self._settings.system
        front = [{"role": "system", "content": system}] if system else []
        return [*front, {"role": "user", "content": prompt}]

    def _score(self, item: Continuation) -> Scored:
        body = {
            "prompt": item.prompt + item.text,
            "max_tokens": 1,  # there are servers that refuse 0
            "temperature": 0.0,
            "echo": True,
            "logprobs": 1,
        }
        return scored(self._post(self._client.completions, body, {}), item)

    def _post(self, resource: Any, body: Mapping[str, Any], more: Mapping) -> Any:
        given = {name: value for name, value in body.items() if value is not None}
        raw = resource.with_raw_response.create(
            model=self._settings.model,
            extra_body={**more, **self._settings.extra},
            **given,
        )
        try:
            return json.loads(raw.content)
        except ValueError:
            raise Malformed(
                f"the server answered {raw.content[:80]!r}, expected JSON; is the "
                "address that of an OpenAI-compatible API, with its /v1?"
            ) from None


def _client(url: str | None, key: str | None, retries: int, timeout: float) -> Any:
    try:
        from openai import OpenAI
    except ImportError:
        raise ValueError(
            "an endpoint needs the openai client, which is not installed: "
            "pip install 'reprojax[endpoint]'"
        ) from None
    if url is not None and key is None:
        key = "none"  # the environment's key is OpenAI's, and no other server's
    return OpenAI(base_url=url, api_key=key, max_retries=retries, timeout=timeout)
