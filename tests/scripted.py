"""A language that answers as a function says, and counts what it is asked."""

from reprojax.text import Completion, Language, Reply, Scored


class Scripted:
    """answer(request): a text, a Completion or a list of them; score(item): a logp."""

    def __init__(self, answer=None, score=None, encode=None, context=None):
        self.rounds, self.requests, self.items = [], [], []
        self.answer, self.logp = answer, score
        self.language = Language(
            self.complete if answer else None,
            self.score if score else None,
            encode,
            context,
        )

    def complete(self, requests):
        self.rounds.append("complete")
        self.requests += requests
        return [self.reply(request) for request in requests]

    def reply(self, request):
        said = self.answer(request)
        said = said if isinstance(said, list) else [said] * request.samples
        done = tuple(Completion(s) if isinstance(s, str) else s for s in said)
        words = sum(len(one.text.split()) for one in done)
        return Reply(done, len(request.prompt.split()), words)

    def score(self, items):
        self.rounds.append("score")
        self.items += items
        found = [self.logp(item) for item in items]
        return [one if isinstance(one, Scored) else Scored(one) for one in found]


def spelled(text):
    """A tokeniser of letters, with a token for the beginning."""
    return [0, *map(ord, text)]


def worded(text):
    """A tokeniser of words with their blank, as byte-pair ones have it."""
    import re

    ids = [0]
    for word in re.findall(r" ?[^ ]+| ", text):
        ids.append(1 + sum(ord(c) * 131**i for i, c in enumerate(word)) % 10**9)
    return ids
