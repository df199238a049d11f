"""Programs whose values are texts, and whose frozen model is a `Language`.

A `Dialogue` is for texts what a forward is for arrays: `run(x, edit)` is a generator
that yields questions (a `Request`, a `Continuation`, or a list of one kind), receives
the answers, and calls `edit(site, value)` at every named place. `instruct` puts
manipulations at its sites. Edits have the order of the core: a procedure edits first,
then hands on.

`drive` advances all queries in step, so that a round is one batched call.
"""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax

from reprojax.core import (
    Edit,
    Key,
    Manipulation,
    Params,
    Program,
    Scope,
    fold,
    inside,
    merge,
    part,
    passthrough,
)
from reprojax.core.guards import check_sites
from reprojax.text.language import (
    Continuation,
    Language,
    Reply,
    Request,
    Scored,
    completed,
    scored,
)

Row = Mapping[str, Any]
"""The fields of a query or of a demonstration."""
Run = Generator[Any, Any, Any]
Ask = Request | Continuation


class InitTexts(Protocol):
    """(key, language, xs, contexts) -> params; the key may be None, as none is used."""

    def __call__(
        self,
        key: Key | None,
        language: Language,
        xs: Sequence[Row] = (),
        contexts: Any = None,
    ) -> Params: ...


class ApplyTexts(Protocol):
    """Contexts and edits are lists, one for each row; params may be a list, too."""

    def __call__(
        self,
        params: Params | Sequence[Params],
        language: Language,
        xs: Sequence[Row],
        contexts: Sequence[Any] | None = None,
        *,
        seed: int = 0,
        edits: Sequence[Edit] | None = None,
    ) -> list: ...


class Procedure(Program):
    """A program over texts: its frozen model is a `Language`, its x a list of rows."""

    __slots__ = ()
    if TYPE_CHECKING:
        init: InitTexts
        apply: ApplyTexts

        def __new__(
            cls, init: InitTexts, apply: ApplyTexts, at: tuple
        ) -> "Procedure": ...


class Dialogue(NamedTuple):
    """A way to ask a language."""

    run: Callable[[Row, Edit], Run]
    """(x, edit) -> a generator that yields questions and returns the answer"""
    sites: tuple[str, ...]
    """The sites at which it calls edit, besides "input" and "output"."""


def instruct(dialogue: Dialogue, at: Mapping[str, Manipulation]) -> Procedure:
    """Put manipulations of texts `at` the sites of a dialogue: `reprogram` for strings.

    A site that the dialogue lacks raises at once, before anything is paid. The
    program's frozen model is a `Language`, its input a list of rows:

        init(key, language, xs=(), contexts=None) -> params
        apply(params, language, xs, contexts=None, *, seed=0, edits=None) -> answers

    The key may be None, because nothing is drawn. Contexts and edits are lists, one for
    each row. So may params be: with a list as long as xs, several prompts are asked in
    the same rounds.
    """
    known = ("input", *dialogue.sites, "output")
    check_sites(at, known, f"the dialogue has {', '.join(known)}")

    def init(
        key: Key | None,
        language: Language,
        xs: Sequence[Row] = (),
        contexts: Any = None,
    ) -> Params:
        key = jax.random.key(0) if key is None else key
        parts = {}
        for site, m in at.items():
            scope = Scope(site, 0, language, xs, contexts)
            parts[site] = m.init(fold(key, site), None, scope)
        return merge(parts)

    def at_site(top: Scope, params: Params, site: str, value: Any) -> Any:
        check_sites([site], known, "add it to the dialogue's sites")
        if site in at:
            scope = inside(top, site)._replace(site=site)
            raw = top.tap(f"{site}/raw", value)
            value = at[site].apply(part(params, site), raw, scope)
        return top.tap(site, value)

    def run(
        params: Params, language: Language, x: Row, context: Any, edit: Edit
    ) -> Run:
        top = Scope("", 0, language, x, context, None, edit)
        tap = partial(at_site, top, params)
        answer = yield from dialogue.run(tap("input", x), tap)
        return tap("output", answer)

    def apply(
        params: Params | Sequence[Params],
        language: Language,
        xs: Sequence[Row],
        contexts: Sequence[Any] | None = None,
        *,
        seed: int = 0,
        edits: Sequence[Edit] | None = None,
    ) -> list:
        each = {
            "params": [params] * len(xs) if isinstance(params, Params) else params,
            "contexts": [None] * len(xs) if contexts is None else contexts,
            "edits": [passthrough] * len(xs) if edits is None else edits,
        }
        _check_lengths(xs, each)
        runs = [
            run(own, language, x, context, edit)
            for x, own, context, edit in zip(xs, *each.values(), strict=True)
        ]
        return drive(runs, language, seed)

    return Procedure(init, apply, tuple(((site,), m) for site, m in at.items()))


def _check_lengths(xs: Any, each: Mapping[str, Sequence[Any]]) -> None:
    if isinstance(xs, Mapping | str):
        raise ValueError(
            f"got one {type(xs).__name__} for xs, expected a list of rows; give [x]"
        )
    for name, values in each.items():
        if len(values) != len(xs):
            raise ValueError(
                f"got {len(values)} {name} with {len(xs)} rows, expected one each"
            )


def drive(runs: Sequence[Run], language: Language, seed: int = 0) -> list:
    """Advance all runs in step -> their results, in order.

    A round is at most one call of `complete` and one of `score`, for any number of
    runs. Equal requests are sent once. Sampled requests differ by their seeds, to which
    `seed` is added; greedy requests ignore seeds. Sending starts when every run has
    asked its first question, so that a faulty row costs nothing.
    """
    results: list[Any] = [None] * len(runs)
    waiting: dict[int, Any] = {}

    def advance(i: int, answer: Any) -> None:
        waiting.pop(i, None)
        try:
            waiting[i] = runs[i].send(answer)
        except StopIteration as done:
            results[i] = done.value

    for i in range(len(runs)):
        advance(i, None)
    while waiting:
        questions = {i: _asked(item, seed) for i, item in waiting.items()}
        answers = _round([q for own in questions.values() for q in own], language)
        for i, item in list(waiting.items()):
            own = [answers[question] for question in questions[i]]
            advance(i, own if isinstance(item, list) else own[0])
    return results


def _asked(item: Any, seed: int) -> list[Ask]:
    """A run's questions as a list, in normal form."""
    questions = item if isinstance(item, list) else [item]
    if bad := [q for q in questions if not isinstance(q, Request | Continuation)]:
        raise ValueError(
            f"a dialogue yielded {type(bad[0]).__name__}, expected a Request, a "
            "Continuation, or a list of them"
        )
    return [_plain(q, seed) if isinstance(q, Request) else q for q in questions]


def _plain(request: Request, seed: int) -> Request:
    if request.temperature == 0:
        return request._replace(seed=0, top_k=0, top_p=1.0)
    return request._replace(seed=request.seed + seed)


def _round(questions: Sequence[Ask], language: Language) -> dict[Ask, Reply | Scored]:
    different = list(dict.fromkeys(questions))
    requests = [q for q in different if isinstance(q, Request)]
    by_prompt: dict[str, list[Continuation]] = {}
    for question in different:
        if isinstance(question, Continuation):
            by_prompt.setdefault(question.prompt, []).append(question)
    items = [item for own in by_prompt.values() for item in own]
    answers: dict[Ask, Reply | Scored] = {}
    if requests:
        answers |= zip(requests, completed(language, requests), strict=True)
    if items:
        answers |= zip(items, scored(language, items), strict=True)
    return answers


def record_texts(
    apply: Callable[..., list], sites: Iterable[str]
) -> Callable[..., tuple[list, list[dict[str, Any]]]]:
    """The same call, returning (answers, {site: value} of each query).

    "<site>/raw" is the value before the manipulation, "<site>/<name>" a part's tap,
    such as "ask:in/dropped". If a site is reached several times, the last value counts.
    """
    wanted = frozenset(sites)

    def keep(own: dict[str, Any], site: str, value: Any) -> Any:
        own[site] = value
        return value

    def run(
        params: Params, language: Language, xs: Sequence[Row], *args: Any, **kw: Any
    ) -> tuple[list, list[dict[str, Any]]]:
        seen: list[dict[str, Any]] = [{} for _ in xs]
        answers = apply(
            params, language, xs, *args, edits=[partial(keep, s) for s in seen], **kw
        )
        reached = {site for own in seen for site in own}
        check_sites(wanted if seen else (), reached, f"got these: {sorted(reached)}")
        return answers, [{s: own[s] for s in wanted & own.keys()} for own in seen]

    return run


def informed_texts(
    procedure: Procedure, look: Callable[[Sequence[Row]], Sequence[Any]]
) -> Procedure:
    """The procedure with contexts look(xs), if its caller gives none.

    `look` gets all queries at once, so that choosing each query's demonstrations embeds
    them in one batch.
    """

    def apply(
        params: Params,
        language: Language,
        xs: Sequence[Row],
        contexts: Sequence[Any] | None = None,
        **kw: Any,
    ) -> list:
        contexts = look(xs) if contexts is None else contexts
        return procedure.apply(params, language, xs, contexts, **kw)

    return procedure._replace(apply=apply)
