"""Texts as prompts (lambda), and operators that insert them (tau)."""

from collections.abc import Sequence
from typing import Any

from reprojax.core import Format, Key, Manipulation, Params, Scope, chain
from reprojax.text.language import Language, count_tokens
from reprojax.text.template import fill


def phrase(text: str, *, learnable: bool = False) -> Format:
    """A text as a prompt (an instruction, a trigger); a search may change learnable."""

    def init(key: Key, shape: Any, scope: Scope) -> Params:
        return Params(learnable=text) if learnable else Params(fixed=text)

    def read(params: Params, value: str, scope: Scope) -> str:
        return params.learnable if learnable else params.fixed

    return Format(init, read)


def insert_text(fmt: Format, at: int | None = 0) -> Manipulation:
    """The prompt before the text; at=None: after it."""

    def init(key: Key, spec: Any, scope: Scope) -> Params:
        return fmt.init(key, (), scope)

    def apply(params: Params, value: str, scope: Scope) -> str:
        prompt = fmt.read(params, value, scope)
        return value + prompt if at is None else value[:at] + prompt + value[at:]

    return Manipulation(init, apply)


def demonstrations(
    template: str,
    rows: Sequence[Any] | None = None,
    *,
    between: str = "\n",
    budget: int | None = None,
    reserve: int = 0,
    around: tuple[str, str] = ("", ""),
    drop: str = "first",
) -> Format:
    """Rows in a template, one after the other, in front of the query.

    No demonstration is cut: whole ones are left out until the rest fits, and the tap
    "dropped" has their number.

    Args:
        rows: None takes each query's own, from its context.
        between: follows each row.
        budget: the most tokens of demonstrations, query and the texts `around`, counted
            by the language's `encode`; by default its context, if it has one, minus the
            `reserve` for the answer.
        around: texts that other parts put before and after; they are only counted.
        drop: which to leave out: "first" (farthest from the query) or "last"; "refuse"
            raises ValueError instead.
    """
    if drop not in ("first", "last", "refuse"):
        raise ValueError(f"got drop={drop!r}, expected 'first', 'last' or 'refuse'")

    def init(key: Key, shape: Any, scope: Scope) -> Params:
        for row in rows or ():
            fill(template, row)  # raises now if a row lacks a field
        return Params(fixed=() if rows is None else tuple(map(dict, rows)))

    def read(params: Params, value: str, scope: Scope) -> str:
        if rows is None and scope.context is None:
            raise ValueError(
                "demonstrations without rows got no context, expected each query's "
                "own; call apply(params, language, xs, contexts)"
            )
        chosen = scope.context if rows is None else params.fixed
        texts = [fill(template, row) + between for row in chosen]
        room, kept = budget, texts
        if budget is None and scope.frozen.context is not None:
            room = scope.frozen.context - reserve
        if room is not None:
            whole = around[0], value + around[1]
            kept = _fitting(texts, whole, room, scope.frozen, drop)
        scope.tap("dropped", len(texts) - len(kept))
        return "".join(kept)

    return Format(init, read)


def in_front(
    template: str,
    rows: Sequence[Any] | None,
    *,
    instruction: str = "",
    behind: str = "",
    between: str = "\n",
    budget: int | None = None,
    reserve: int = 0,
    drop: str = "first",
) -> Manipulation:
    """An instruction and demonstrations before the text.

    Args:
        instruction: with the blank that follows it.
        behind: the longest answer, which is only counted.
        rows, between, budget, reserve, drop: as in `demonstrations`.
    """
    shown = demonstrations(
        template,
        rows,
        between=between,
        budget=budget,
        reserve=reserve,
        around=(instruction, behind),
        drop=drop,
    )
    return chain(rows=insert_text(shown), instruction=insert_text(phrase(instruction)))


def _fitting(
    texts: Sequence[str],
    around: tuple[str, str],
    room: int,
    language: Language,
    drop: str,
) -> Sequence[str]:
    """As many of the texts as fit with the texts around them."""
    front, behind = around
    kept = texts
    while (tokens := count_tokens(language, front + "".join(kept) + behind)) > room:
        if not kept or drop == "refuse":
            what = f"{len(kept)} demonstrations and the query" if kept else "the query"
            raise ValueError(
                f"{what} are {tokens} tokens, expected at most {room}, what the "
                "budget leaves; nothing is cut: give a larger budget, a shorter "
                "answer, fewer demonstrations, or shorter ones. The query begins "
                f"{behind[:60]!r}"
            )
        kept = kept[1:] if drop == "first" else kept[:-1]
    return kept
