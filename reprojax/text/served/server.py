"""A language model behind an OpenAI-compatible server, with budget, log and retries.

>>> with Endpoint("SmolLM2", url, budget=5000, log="log") as far:
...     params = program.init(None, far.language)
...     answers = program.apply(params, far.language, [{"text": "2+2="}])
>>> answers[0].completions[0].text
' 4'

A request is paid when it is answered, and on disk before its answer is used. A stopped
run is started again with the same log; it may ask in any order, and pays only for new
requests. Requests in progress when the process is killed may be paid twice.
"""

import asyncio
import threading
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple

from reprojax.saving.files import plain
from reprojax.saving.log import Log
from reprojax.searches import BudgetSpent
from reprojax.text import Continuation, Language, Reply, Request, Scored
from reprojax.text.served.answers import (
    Answered,
    Asked,
    NextToken,
    next_tokens,
    packed,
    reply,
    unpacked,
)
from reprojax.text.served.connection import Connection, Unanswered, server
from reprojax.text.served.scoring import NotEchoed, beginnings, by_first_token, echoed

REFUSED = (400, 422)  # the server understands the request but not one of its settings


class Settings(NamedTuple):
    """What determines an answer besides its request."""

    url: str
    model: str
    api: Literal["completions", "chat"]
    system: str | None
    extra: Mapping[str, Any]


class Endpoint:
    """A model on a server, as a `Language`, inside a `with`. Needs `httpx2`.

    Args:
        url: the API's address, including its /v1; None means OpenAI.
        budget: requests that may be paid, logged ones included. A request is one prompt
            with its samples, or with as many as the server gives at a time; one scored
            continuation, or one prompt if the server does not echo.
        log: a file, one run at a time. Without one nothing is kept.
        api: "completions" continues a prompt unchanged, and can score; "chat" sends it
            as a user's message, and cannot score.
        key: by default OPENAI_API_KEY, which is sent to OpenAI only, as OPENAI_ORG_ID
            and OPENAI_PROJECT_ID are.
        workers: requests at a time.
        retries: of each request after a lost connection, a timeout, 408, 409, 425, 429
            and 5xx. The client waits as long as the server asks, or increasingly long.
        timeout: seconds of one whole attempt. All attempts and waits of a request take
            (retries + 1) * timeout at most.
        system: a system message, for "chat".
        encode: the model's tokeniser, for token budgets and checks of label words.
        context: the most tokens of a prompt and its answer. A chat's own tokens around
            a message are not counted, so leave room for them.
        extra: further fields of each request, such as {"min_p": .1}.
        top: how many likely next tokens to request from a server that does not echo;
            servers have a limit. Labels are then scored by their first token, which
            `Scored.of` and a warning tell.
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
        top: int = 20,
    ) -> None:
        if api not in ("completions", "chat") or (system and api != "chat"):
            raise ValueError(
                f"got api={api!r} and system={system!r}, expected 'completions' or "
                "'chat', and a system message with 'chat' alone"
            )
        if min(budget, workers, top) < 1 or retries < 0 or not 0 < timeout < 1e9:
            raise ValueError(
                f"got budget={budget}, workers={workers}, top={top}, retries={retries} "
                f"and timeout={timeout}, expected at least 1, 1, 1 and 0, and seconds"
            )
        self.budget, self.workers, self.encode, self.paid = budget, workers, encode, 0
        to = server(url, key)
        self._settings = Settings(to.url, model, api, system, plain(extra or {}))
        self._server = Connection(to, retries, timeout)
        self._log = None if log is None else Log(Path(log))
        self._known: dict[Asked, Answered] = {}
        self._turn = threading.Lock()  # one round at a time
        self._going, self._top = 0, top
        self._echoes: bool | None = None  # whether the server echoes; None: unknown
        self._samples: int | None = None  # the most samples at a time; None: unknown
        self._said: set[str] = set()
        score = self.score if api == "completions" else None
        self.language = Language(self.complete, score, encode, context)

    def __enter__(self) -> "Endpoint":
        if self._log is not None:
            for payload in self._log.read(self._settings._asdict()):
                self._remember(*unpacked(payload))
        self._server.open()
        return self

    def __exit__(self, *error: Any) -> None:
        self._server.close()
        if self._log is not None:
            self._log.close()

    @property
    def left(self) -> int:
        """Requests that the budget still allows."""
        return self.budget - self.paid

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        """Replies from the log, or else from the server."""
        with self._turn:
            todo = {r: p for r in requests if (p := self._gathered(r)[1])}
            need = sum(-(-self._lacking(r) // p.samples) for r, p in todo.items())
            self._check_left(need)
            self._each(self._complete, list(todo))
            return [_joined(self._gathered(request)[0]) for request in requests]

    def score(self, items: Sequence[Continuation]) -> list[Scored]:
        """Scores from the log, or else from the server."""
        by_prompt: dict[str, list[Continuation]] = {}
        for item in dict.fromkeys(items):
            by_prompt.setdefault(item.prompt, []).append(item)
        with self._turn:
            todo = [own for own in by_prompt.values() if not self._scores(own)]
            if todo and self._echoes is None:
                self._check_left(sum(map(len, todo)))
                self._run(self._try_echo(todo[0]))
                todo = [own for own in todo if not self._scores(own)]
            if self._echoes:
                new = [i for own in todo for i in own if i not in self._known]
                self._check_left(len(new))
                self._each(self._echo, new)
            else:
                for own in todo:
                    beginnings(own, self.encode)
                self._check_left(len(todo))
                self._each(self._next, [own[0].prompt for own in todo])
            found = {}
            for own in by_prompt.values():
                found |= zip(own, self._scores(own) or (), strict=True)
        self._say(found.values())
        return [found[item] for item in items]

    # -- a round of requests

    def _each(self, ask: Callable[[Any], Any], asked: Sequence[Any]) -> None:
        """Ask all, some at a time. If one fails, the others in progress are kept."""
        failed: list[Exception] = []

        async def one(item: Any, gate: asyncio.Semaphore) -> None:
            async with gate:
                try:
                    if not failed:
                        await ask(item)
                except Exception as error:
                    failed.append(error)

        async def all_of_them() -> None:
            gate = asyncio.Semaphore(self.workers)
            await asyncio.gather(*(one(item, gate) for item in asked))
            if failed:
                raise failed[0]

        if asked:
            self._run(all_of_them())

    def _run(self, work: Any) -> None:
        try:
            self._server.run(work)
        except BaseException as error:
            where = "no log" if self._log is None else str(self._log.path)
            error.add_note(
                f"{self._settings.model}: earlier answers are kept in {where}; "
                "start again with the same log to continue"
            )
            raise

    def _check_left(self, need: int) -> None:
        if need > self.left - self._going:
            raise BudgetSpent(
                f"got {need} new requests and {self.left - self._going} of "
                f"{self.budget} are left; none was sent; give a larger budget, or "
                "fewer rows"
            )

    async def _pay(
        self,
        one: Asked,
        body: Mapping[str, Any],
        read: Callable[[bytes], Answered],
    ) -> None:
        """Ask, count and log a request, whatever its answer is."""
        self._check_left(1)
        given = {name: value for name, value in body.items() if value is not None}
        given = {"model": self._settings.model, **given, **self._settings.extra}
        path = "chat/completions" if self._settings.api == "chat" else "completions"
        self._going += 1
        try:
            data = await self._server.post(path, given)
        finally:
            self._going -= 1
        answer = None
        try:
            answer = read(data)
        finally:
            if self._log is not None:
                self._log.write(packed(one, answer))
            self._remember(one, answer)

    def _remember(self, one: Asked, answer: Answered | None) -> None:
        self.paid += 1
        if answer is not None:
            self._known[one] = answer
        if isinstance(one, Request) and isinstance(answer, Reply):
            if (given := len(answer.completions)) < one.samples:
                self._samples = given
        if isinstance(one, NextToken):
            self._echoes = False
        elif isinstance(one, Continuation) and answer is not None:
            self._echoes = True

    # -- completions, in parts if the server gives fewer samples at a time

    def _gathered(self, request: Request) -> tuple[list[Reply], Request | None]:
        """(the known parts, the next part to ask or None)."""
        parts: list[Any] = []
        while (part := self._part(request, parts)) in self._known:
            parts.append(self._known[part])
        return parts, part

    def _part(self, request: Request, parts: Sequence[Reply]) -> Any:
        """The request after these parts; None after the last.

        Each part samples with its own seed. Its size depends on earlier answers only,
        so that a restarted run asks for the same parts.
        """
        rest = request.samples - sum(len(part.completions) for part in parts)
        if not rest:
            return None

        def of(size: int) -> Request:
            text = f"{request.seed} of {request.samples}, {len(parts)}"
            return request._replace(
                samples=size, seed=zlib.crc32(text.encode()) & 0x7FFFFFFF
            )

        if parts:
            return of(min(rest, len(parts[-1].completions)))
        sizes = [of(size) for size in range(rest - 1, 0, -1)]
        known = [part for part in (request, *sizes) if part in self._known]
        limited = self._samples is not None and self._samples < rest
        return known[0] if known else of(self._samples or 1) if limited else request

    def _lacking(self, request: Request) -> int:
        parts, _ = self._gathered(request)
        return request.samples - sum(len(part.completions) for part in parts)

    async def _complete(self, request: Request) -> None:
        while part := self._gathered(request)[1]:
            try:
                await self._pay(part, self._body(part), self._reader(part))
            except Unanswered as error:
                if part.samples == 1:
                    self._samples = None  # the number of samples was not the reason
                first = not self._gathered(request)[0]
                if part.samples == 1 or not first or error.status not in REFUSED:
                    raise
                fewer = part.samples // 2  # refused, so not paid
                self._samples = min(self._samples or fewer, fewer)

    def _reader(self, request: Request) -> Callable[[bytes], Reply]:
        return lambda data: reply(data, request, self._settings.api, self.encode)

    def _body(self, request: Request) -> dict[str, Any]:
        body = {
            "temperature": request.temperature,
            "top_p": request.top_p,
            "n": request.samples,
            "seed": request.seed,
            "stop": list(request.stop) or None,
            "top_k": request.top_k or None,  # not in OpenAI's API
        }
        if self._settings.api != "chat":
            return body | {"prompt": request.prompt, "max_tokens": request.length}
        messages = [{"role": "user", "content": request.prompt}]
        if self._settings.system:
            messages.insert(0, {"role": "system", "content": self._settings.system})
        return body | {"messages": messages, "max_completion_tokens": request.length}

    # -- scores

    def _scores(self, items: Sequence[Continuation]) -> list[Any] | None:
        """Scores of one prompt's continuations, all by one method; None if some lack.

        The sum over a text's tokens is never compared with a first token's score.
        """
        if all(item in self._known for item in items):
            return [self._known[item] for item in items]
        likely: Any = self._known.get(NextToken(items[0].prompt, self._top))
        return None if likely is None else by_first_token(items, likely, self.encode)

    async def _try_echo(self, items: Sequence[Continuation]) -> None:
        """Score the first by an echo; if that fails, all of them by the next token."""
        try:
            await self._echo(items[0])
            return
        except NotEchoed:
            self._echoes = False
        except Unanswered as error:
            if error.status not in REFUSED:
                raise
        beginnings(items, self.encode)
        await self._next(items[0].prompt)

    async def _echo(self, item: Continuation) -> None:
        body = {
            "prompt": item.prompt + item.text,
            "max_tokens": 1,  # some servers refuse 0
            "temperature": 0.0,
            "echo": True,
            "logprobs": 1,
        }
        await self._pay(item, body, lambda data: echoed(data, item, self.encode))

    async def _next(self, prompt: str) -> None:
        body = {
            "prompt": prompt,
            "max_tokens": 1,
            "temperature": 1.0,  # some servers divide the listed logits by it
            "logprobs": self._top,
        }
        await self._pay(NextToken(prompt, self._top), body, next_tokens)

    def _say(self, found: Any) -> None:
        of = {one.of for one in found}
        says = {
            "first token": "labels of several tokens are scored by their first token",
            "at most": f"labels that are not among the top={self._top} next tokens "
            "count as likely as these allow; calibration is biased by it",
        }
        for kind in sorted((of & says.keys()) - self._said):
            self._said.add(kind)
            warnings.warn(
                f"{self._settings.url} does not score an echoed prompt: {says[kind]}",
                stacklevel=3,
            )


def _joined(parts: Sequence[Reply]) -> Reply:
    if len(parts) == 1:
        return parts[0]
    return Reply(
        tuple(one for part in parts for one in part.completions),
        sum(part.prompt_tokens for part in parts),
        sum(part.tokens for part in parts),
    )
