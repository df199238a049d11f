"""A local model as a `text.Language`: strings in, strings out."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from reprojax import decoding
from reprojax.core import Params, Program, Tokens, fold, padded, reprogram, tokens
from reprojax.decoding import Cache, Sampling
from reprojax.models import Model
from reprojax.models.language import Tokenizer, Words
from reprojax.text.language import (
    Completion,
    Continuation,
    Language,
    Reply,
    Request,
    Scored,
)

CHUNK = 16  # tokens to decode between two checks for stop strings
NEAR = 8  # ids of context after which a decoder no longer drops a word's blank
GAIN = 8  # tokens that a new shared head must save to be computed


def language(
    card: Model[Words],
    program: Program | None = None,
    params: Params | None = None,
    *,
    rows: int = 16,
    heads: int | None = None,
) -> Language:
    """A frozen causal model, bare or with a program's manipulations, as a `Language`.

    The answer to a request depends on its prompt and seed only, not on the batch. One
    program with several params, each in its own `Language`, is compiled once.

    Args:
        program: of `card.forward`, without an alignment: it must answer with logits.
        rows: the most prompts of one compiled call.
        heads: how many shared beginnings of prompts to cache; by default 8 for the bare
            model, and none with a program. A program may use some, unless its
            manipulations read the query (`scope.x`), or several of its last tokens, as
            `loreft` does: a cached head would contain some of these.
    """
    if card.input.kind != "causal" or card.input.tokenizer is None:
        tokenizer = "a tokeniser" if card.input.tokenizer else "no tokeniser"
        raise ValueError(
            f"got {card.name}, a {card.input.kind} model with {tokenizer}; expected "
            "a causal one that has one; load another, or call load(..., "
            "tokenizer=folder)"
        )
    most = (8 if program is None else 0) if heads is None else heads
    if program is None:
        x = tokens(jnp.zeros((1, 1), jnp.int32))
        program = reprogram(card.forward, {})
        params = program.init(jax.random.key(0), card.frozen, x)
    if params is None:
        raise ValueError(
            "got a program without its params; call language(card, program, params)"
        )
    local = _Local(card, program, params, most)

    def complete(requests: Sequence[Request]) -> list[Reply]:
        found: dict[Request, Reply] = {}
        for part in _batches(requests, rows, "samples"):
            found |= zip(part, local.write(part), strict=True)
        return [found[request] for request in requests]

    def score(items: Sequence[Continuation]) -> list[Scored]:
        by_prompt: dict[str, list[Continuation]] = {}
        for item in items:
            by_prompt.setdefault(item.prompt, []).append(item)
        groups, found = list(by_prompt.values()), {}
        for i in range(0, len(groups), rows):
            found |= local.judge(groups[i : i + rows])
        return [found[item] for item in items]

    return Language(complete, score, card.input.tokenizer.encode, card.input.positions)


def _batches(items: Sequence[Any], rows: int, by: str) -> Iterator[list[Any]]:
    groups: dict[Hashable, list[Any]] = {}
    for item in dict.fromkeys(items):
        groups.setdefault(getattr(item, by), []).append(item)
    for group in groups.values():
        for i in range(0, len(group), rows):
            yield group[i : i + rows]


def bucket(n: int, floor: int = 1) -> int:
    """The next power of two, so that few shapes are compiled."""
    return max(floor, 1 << max(n - 1, 0).bit_length())


def common_beginning(rows: Sequence[tuple[int, ...]]) -> int:
    """The length of the rows' common beginning; each row keeps at least one id."""
    if len(rows) < 2:
        return 0
    first, last = min(rows), max(rows)
    most = min(map(len, rows)) - 1
    return next((i for i in range(most) if first[i] != last[i]), most)


@lru_cache(maxsize=16)
def _compiled(program: Program) -> tuple[Callable[..., Any], ...]:
    """The compiled calls on a program, shared by all its params."""

    def begin(params, frozen, x, cache, length, samples):
        y, cache = decoding.prefill(program, params, frozen, x, cache=cache, last=True)
        return decoding.begin_writing(y, cache, x, length, samples)

    return (
        jax.jit(partial(decoding.share, program)),
        jax.jit(begin, static_argnames=("length", "samples")),
        jax.jit(partial(decoding.decode_words, program), static_argnames="length"),
        jax.jit(decoding.log_probabilities(program)),
    )


class _Local:
    """The compiled calls on one program with its params, and its cached heads."""

    def __init__(self, card: Model[Words], program: Program, params: Params, most: int):
        assert card.input.tokenizer is not None
        self.card, self.params, self.most = card, params, most
        self.text = card.input.tokenizer
        self.heads: OrderedDict[tuple[int, ...], Cache] = OrderedDict()
        self.stop = jnp.asarray(card.input.special.eos, jnp.int32)
        self._share, self._begin, self._go, self._score = _compiled(program)
        x = tokens(jnp.zeros((1, 1), jnp.int32))
        _, cache = jax.eval_shape(
            partial(decoding.prefill, program), params, card.frozen, x
        )
        self.extra = max(kv.weight.shape[1] for kv in cache.values()) - 1

    def read(self, rows: Sequence[tuple[int, ...]]) -> tuple[Tokens, Cache | None]:
        """The rest of each row after the common head, and the head's cache."""
        ids = self._beginning(rows) if self.most else ()
        rest = [row[len(ids) :] for row in rows]
        rest += [(0,)] * (bucket(len(rest), 2) - len(rest))
        x = self._padded(rest)
        return tokens(x.value, x.weight, start=len(ids)), self.heads.get(ids)

    def _padded(self, rows: Sequence[Sequence[int]]) -> Tokens:
        longest = max(map(len, rows))
        most = self.card.input.positions - self.extra  # padding must not cause an error
        length = max(min(bucket(longest, 16), most), longest)
        return padded(rows, "left", length)

    def _beginning(self, rows: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        fits = [
            ids
            for ids in self.heads
            if all(len(row) > len(ids) and row[: len(ids)] == ids for row in rows)
        ]
        best, common = max(fits, key=len, default=()), common_beginning(rows)
        if common >= len(best) + GAIN:
            best = rows[0][:common]
            head = self._padded([best])
            self.heads[best] = self._share(self.params, self.card.frozen, head)
        if best:
            self.heads.move_to_end(best)
        while len(self.heads) > self.most:
            self.heads.popitem(last=False)
        return best

    def write(self, requests: Sequence[Request]) -> list[Reply]:
        """Replies to requests with equal numbers of samples."""
        samples, size = requests[0].samples, bucket(len(requests), 2)
        prompts = [tuple(self.text.encode(request.prompt)) for request in requests]
        self._check(prompts, [request.length for request in requests])
        own = self.card.input.special.eos
        ends = [stops(self.text, request.stop, own) for request in requests]
        x, cache = self.read(prompts)
        length = max(request.length for request in requests)
        state = self._begin(
            self.params, self.card.frozen, x, cache, bucket(length, CHUNK), samples
        )
        keys = [fold(jax.random.key(r.seed), r.prompt) for r in requests]
        keys += [jax.random.key(0)] * (size - len(keys))
        keys = decoding.each(jnp.stack(keys), samples)

        def of(name: str, dtype: Any, fill: Any) -> np.ndarray:
            values = [getattr(request, name) for request in requests]
            values += [fill] * (size - len(values))
            return np.repeat(np.asarray(values, dtype), samples)

        sampling = Sampling(
            of("temperature", np.float32, 0),
            of("top_k", np.int32, 0),
            of("top_p", np.float32, 1),
        )
        answers = [
            _Answer(self, prompt, end)
            for prompt, end in zip(prompts, ends, strict=True)
            for _ in range(samples)
        ]
        limit = of("length", np.int32, 0)
        for _ in range(0, length, CHUNK):
            state, out = self._go(
                self.params,
                self.card.frozen,
                state,
                keys,
                sampling,
                length=CHUNK,
                stop=self.stop,
                limit=limit,
            )
            done, parts = np.array(state.done), [np.asarray(leaf) for leaf in out]
            for i, answer in enumerate(answers):
                self._check_said(parts[1][i, : parts[2][i]])
                done[i] |= answer.take(parts[0][i, : parts[2][i]], bool(parts[3][i]))
            if done.all():
                break
            state = state._replace(done=jnp.asarray(done))
        return [
            Reply(
                tuple(a.completion() for a in answers[i * samples : (i + 1) * samples]),
                len(prompt),
                sum(len(a.ids) for a in answers[i * samples : (i + 1) * samples]),
            )
            for i, prompt in enumerate(prompts)
        ]

    def _check_said(self, logp: np.ndarray) -> None:
        """Raise at NaN: after logits of NaN, sampling always gives the first token."""
        if not np.isfinite(logp).all():
            raise ValueError(
                f"{self.card.name} gave NaN for a next word, expected logits; its "
                "weights or the prompt's params are not finite, or too large for "
                "their type"
            )

    def _check(self, prompts: Sequence[Sequence[int]], lengths: Sequence[int]) -> None:
        """Raise at an empty prompt, or if there are too few positions."""
        for prompt, length in zip(prompts, lengths, strict=True):
            used = len(prompt) + self.extra
            if not prompt:
                raise ValueError(
                    "got a prompt of no tokens, expected one at least to continue; "
                    "begin it with some text"
                )
            if used + length > self.card.input.positions:
                raise ValueError(
                    f"got {used} tokens, {self.extra} of them the program's own, and "
                    f"{length} for the answer, expected at most the model's "
                    f"{self.card.input.positions} positions together; shorten the text "
                    "or the answer"
                )

    def judge(
        self, groups: Sequence[Sequence[Continuation]]
    ) -> dict[Continuation, Scored]:
        """Scores of groups of continuations, one prompt a group."""
        prompts = [tuple(self.text.encode(group[0].prompt)) for group in groups]
        encode = self.text.encode
        ends = [[continuation(encode, *item) for item in group] for group in groups]
        self._check(prompts, [max(map(len, group)) for group in ends])
        x, cache = self.read(prompts)
        longest = max(len(end) for group in ends for end in group)
        size = (len(x.value), bucket(max(map(len, ends))), bucket(longest))
        ids, weight = np.zeros(size, np.int32), np.zeros(size, np.float32)
        for b, group in enumerate(ends):
            for c, end in enumerate(group):
                ids[b, c, : len(end)], weight[b, c, : len(end)] = end, 1
        logp = self._score(self.params, self.card.frozen, x, ids, weight, None, cache)
        total = np.asarray(logp, np.float64).sum(-1)
        return {
            item: Scored(float(total[b, c]), len(ends[b][c]))
            for b, group in enumerate(groups)
            for c, item in enumerate(group)
        }


def stops(
    text: Tokenizer, given: Sequence[str], ends: Sequence[int]
) -> tuple[str, ...]:
    """The stop strings that can occur in a text; the model's own end is left out.

    Raises:
        ValueError: a stop string with another special token, which no text contains.
    """

    def hidden(stop: str) -> list[int]:
        ids = [i for i in text.encode(stop, special=False) if not text.decode([i])]
        return [i for i in ids if (token := text.token(i)) and token in stop]

    found = {stop: hidden(stop) for stop in given}
    for stop, ids in found.items():
        if ids and not (ids[0] in ends and text.token(ids[0]) == stop):
            raise ValueError(
                f"the stop string {stop!r} holds the special token {ids[0]}, which "
                "texts do not show, expected plain text; let the model end at it: "
                "card._replace(special=card.input.special._replace(eos=("
                f"*card.input.special.eos, {ids[0]})))"
            )
    return tuple(stop for stop, ids in found.items() if not ids)


class _Answer:
    """One text while it is generated."""

    def __init__(self, local: _Local, prompt: Sequence[int], stop: Sequence[str]):
        self.decode, self.stop = local.text.decode, stop
        self.before, self.ids = list(prompt[-NEAR:]), []
        self.finish: Literal["stop", "length"] = "length"

    def text(self) -> str:
        """A decoder may drop the blank before a text's first word, so some of the
        prompt's last ids are decoded with it and cut off again."""
        return self.decode(self.before + self.ids)[len(self.decode(self.before)) :]

    def take(self, ids: np.ndarray, ended: bool) -> bool:
        """Add tokens up to the one that completes a stop string -> whether it ended."""
        if self.finish == "stop":
            return True
        old = len(self.ids)
        new = [int(i) for i in ids]
        self.ids += new
        if self.stop and any(s in self.text() for s in self.stop):
            for n in range(len(new) + 1):
                self.ids = self.ids[:old] + new[:n]
                if any(s in self.text() for s in self.stop):
                    break
            ended = True
        if ended:
            self.finish = "stop"
        return ended

    def completion(self) -> Completion:
        text = self.text()
        places = [text.find(s) for s in self.stop if s in text]
        return Completion(text[: min(places)] if places else text, self.finish)


def continuation(encode: Any, prompt: str, text: str) -> tuple[int, ...]:
    """The ids of a text after a prompt; raise if a token spans the border."""
    first, whole = tuple(encode(prompt)), tuple(encode(prompt + text))
    end = whole[len(first) :]
    if not first or not end or first + end != whole:
        raise ValueError(
            f"the continuation {text!r} does not begin at a token's border after "
            f"{prompt[-20:]!r}, expected one that does; move the space from the "
            "prompt's end to it"
        )
    return end
