"""What a user may do wrong on a first day, and in a part of one's own: the messages.

    python tests/core/border.py             all of them, to be read
    python tests/core/border.py format      those whose name holds the word

`test_border.py` asserts what each has to say. SLIPS put one thing in another's place;
MISTAKES are made inside of a manipulation, a format, a loss or a forward.
"""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

import fitting
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.nn.initializers import normal, zeros
from toys import DECODER_FROZEN, DENSE_FROZEN, ROWS, ViT, decoder, dense

from reprojax import (
    Format,
    Manipulation,
    Params,
    chain,
    record,
    reprogram,
    shared,
    stateless,
)
from reprojax.alignments import bayesian, label_words, linear
from reprojax.core import Tokens
from reprojax.formats import border, learnable, through
from reprojax.models import Model, Pixels
from reprojax.models.language.card import Words, vectors
from reprojax.models.language.starts import from_text
from reprojax.operators import add, insert, masked_add, pad, replace, resize
from reprojax.recipes.model_reprogramming.label_mapping import watermark
from reprojax.recipes.prompt_tuning import prefix_tuning
from reprojax.searches import Oracle
from reprojax.training import fit
from reprojax.training.black_box import fit_black_box
from reprojax.training.caches import cached

KEY = jax.random.key(0)
soft = learnable(zeros)


class Case(NamedTuple):
    """Something done wrong, and what its message has to hold."""

    name: str
    run: Callable[[], Any]
    says: tuple[str, ...]
    """The site and the part, or the argument; what came; what to do."""


# -- one thing in another's place

IMAGES = Model(
    "pictures", fitting.FORWARD, fitting.FROZEN, Pixels(8, (0.5,) * 3, (0.2,) * 3), {}
)
WORDS = Model(
    "words",
    decoder,
    DECODER_FROZEN,
    Words("causal", 30, 32),
    {"embedding": ("embed:out",), "blocks": ("hidden",)},
)
PROGRAM = reprogram(dense, {"hidden": add(soft)})
PARAMS = PROGRAM.init(KEY, DENSE_FROZEN, ROWS)
SPOKEN = reprogram(decoder, {"embed:out": insert(soft, 2)})
train = functools.partial(
    fit, optimizer=optax.sgd(0.1), epochs=1, batch=4, progress=False
)
asked: Any = functools.partial(fit_black_box, budget=9, batch=2)
given: tuple[Any, ...] = (fitting.PROGRAM, fitting.FROZEN, fitting.TASK)


class Own:
    """A class in an instance's place."""


def bare(frozen: Any, x: Any) -> Any:
    return x @ frozen["a"]


def made(at: Any, forward: Any = dense) -> Any:
    """A program's first params, which traces all of its parts."""
    return reprogram(forward, at).init(KEY, DENSE_FROZEN, ROWS)


def whole(key: Any, shape: Any, dtype: Any) -> Any:
    return jnp.zeros(shape, jnp.int32)


TEXTS = fitting.TASK._replace(holds="text")
INTEGERS = reprogram(
    fitting.FORWARD,
    {"normalized": add(learnable(whole)), "output": bayesian(fitting.TARGETS)},
)

SLIPS: tuple[Case, ...] = (
    Case(
        "an initialiser for a format",
        lambda: add(zeros),
        ("add got the function zeros", "expected a Format", "add(learnable(zeros))"),
    ),
    Case(
        "an array for a format",
        lambda: add(jnp.zeros(7)),
        ("add got an array float32[7]", "add(learnable(array))", "add(fixed(array))"),
    ),
    Case(
        "a format that was not called",
        lambda: insert(learnable, 3),
        ("insert got the function learnable", "call it first: insert(learnable(...))"),
    ),
    Case(
        "a manipulation for a format",
        lambda: pad(resize(8), 2),
        ("pad got a Manipulation (resize)", "expected a Format", "chain"),
    ),
    Case(
        "an array for a border's format",
        lambda: border(np.zeros((8, 8, 3)), 2),
        ("border got an array float64[8,8,3]", "border(learnable(array))"),
    ),
    Case(
        "a format for a manipulation",
        lambda: reprogram(dense, {"hidden": soft}),
        ("'hidden' got a Format (learnable)", "a Manipulation", "add(format)"),
    ),
    Case(
        "a format in a chain",
        lambda: chain(size=resize(8), mark=soft),
        ("chain(mark=...)", "a Format (learnable)", "add(format)"),
    ),
    Case(
        "a format in the place of an operator behind it",
        lambda: through(soft, soft),
        ("through got a Format (learnable)", "expected a Manipulation"),
    ),
    Case(
        "a function for a manipulation",
        lambda: reprogram(dense, {"hidden": jnp.tanh}),
        ("'hidden' got the function tanh", "stateless(tanh)"),
    ),
    Case(
        "an operator that was not called",
        lambda: reprogram(dense, {"hidden": add}),
        ("'hidden' got the function add", "call it first: add(...)"),
    ),
    Case(
        "a class for a manipulation",
        lambda: reprogram(dense, {"hidden": Own}),
        ("'hidden' got the class Own", "make one first: Own(...)"),
    ),
    Case(
        "an array for a manipulation",
        lambda: reprogram(dense, {"hidden": jnp.zeros(7)}),
        ("'hidden' got an array float32[7]", "add(learnable(array))"),
    ),
    Case(
        "several manipulations in a list",
        lambda: reprogram(dense, {"hidden": [add(soft), add(soft)]}),
        ("'hidden' got a list", "chain(a=..., b=...)"),
    ),
    Case(
        "a manipulation without its site",
        lambda: reprogram(dense, add(soft)),
        (
            "reprogram got a Manipulation (add(learnable))",
            '{"input": manipulation}',
            "sites(",
        ),
    ),
    Case(
        "a site that there is not",
        lambda: made({"hiden": add(soft)}),
        ("no such site: ['hiden']", "did you mean 'hidden'", "sites(forward"),
    ),
    Case(
        "a card for its forward",
        lambda: reprogram(IMAGES, {"output": linear(3)}),
        ("reprogram got the card 'pictures'", "reprogram(card.forward"),
    ),
    Case(
        "a program for a forward",
        lambda: reprogram(PROGRAM, {"output": linear(3)}),
        ("reprogram got a Program", "partial(program.apply, params)"),
    ),
    Case(
        "a module for a forward",
        lambda: reprogram(ViT(), {"output": linear(3)}),
        ("reprogram got a ViT", "locations.linen(module)"),
    ),
    Case(
        "a module's class for a forward",
        lambda: reprogram(ViT, {"output": linear(3)}),
        ("reprogram got the class ViT", "locations.linen(ViT(...))"),
    ),
    Case(
        "a function without edit for a forward",
        lambda: reprogram(bare, {"output": linear(3)}),
        ("the function bare of (frozen, x)", "edit=passthrough", "opaque(function)"),
    ),
    Case(
        "reprogram's arguments swapped",
        lambda: reprogram({"output": linear(3)}, dense),
        ("reprogram got a dict of ['output']", "reprogram(forward, {site"),
    ),
    Case(
        "init with a number for a key",
        lambda: PROGRAM.init(0, DENSE_FROZEN, ROWS),
        ("got 0 for a key", "jax.random.key(0)"),
    ),
    Case(
        "init without a key",
        lambda: PROGRAM.init(None, DENSE_FROZEN, ROWS),
        ("got None for a key", "jax.random.key(0)"),
    ),
    Case(
        "init without the frozen tree",
        lambda: PROGRAM.init(KEY, ROWS),
        ("init got an array float32[4,6]", "init(key, frozen, x"),
    ),
    Case(
        "init with the card",
        lambda: PROGRAM.init(KEY, IMAGES, ROWS),
        ("init got the card 'pictures'", "give card.frozen"),
    ),
    Case(
        "apply without the frozen tree",
        lambda: PROGRAM.apply(PARAMS, ROWS),
        ("apply got an array float32[4,6]", "apply(params, frozen, x"),
    ),
    Case(
        "apply with the card",
        lambda: PROGRAM.apply(PARAMS, IMAGES, ROWS),
        ("apply got the card 'pictures'", "give card.frozen"),
    ),
    Case(
        "apply with params.learnable",
        lambda: PROGRAM.apply(PARAMS.learnable, DENSE_FROZEN, ROWS),
        ("a dict of ['hidden'] for params", "not params.learnable"),
    ),
    Case(
        "apply with a fit's result",
        lambda: PROGRAM.apply(
            fitting.Fitted(PARAMS, PARAMS, {}, np.zeros((1, 2)), 0.0),
            DENSE_FROZEN,
            ROWS,
        ),
        ("a Fitted for params", "fitted.params"),
    ),
    Case(
        "apply with another program's params",
        lambda: PROGRAM.apply(made({"input": add(soft)}), DENSE_FROZEN, ROWS),
        ("params of the sites ['input']", "expected ['hidden']", "init"),
    ),
    Case(
        "apply with a key for the context",
        lambda: PROGRAM.apply(PARAMS, DENSE_FROZEN, ROWS, KEY),
        ("a key for the context", "key=key"),
    ),
    Case(
        "texts for ids",
        lambda: SPOKEN.init(KEY, DECODER_FROZEN, ["a word", "two words"]),
        ("init got the text 'a word' in x", "ids", "tokenizer.encode"),
    ),
    Case(
        "a text for the ids of label words",
        lambda: label_words("yes"),
        ("label_words got the text 'yes'", "tokenizer.encode"),
    ),
    Case(
        "a text for the ids of a start",
        lambda: from_text(WORDS, "yes"),
        ("a text got the text 'yes'", "tokenizer.encode"),
    ),
    Case(
        "an image recipe on a language model",
        lambda: watermark(WORDS, targets=3),
        ("watermark got words", "input is Words", "recipes.methods(model)"),
    ),
    Case(
        "a rate for the alignment",
        lambda: watermark(IMAGES, 0.3),  # pyright: ignore[reportArgumentType]
        ("watermark got 0.3 for the alignment", "watermark(model, targets=10)"),
    ),
    Case(
        "neither an alignment nor a number of classes",
        lambda: watermark(IMAGES),
        ("neither of align and targets", "recipe(model, targets=10)"),
    ),
    Case(
        "a recipe on a forward",
        lambda: watermark(IMAGES.forward, targets=3),  # pyright: ignore
        ("watermark got function for the model", "models.card(network, frozen"),
    ),
    Case(
        "a language recipe on an image model",
        lambda: prefix_tuning(IMAGES, linear(3), length=2),
        ("prefix_tuning got pictures", "input is Pixels", "a model of Words"),
    ),
    Case(
        "the words of an image model",
        lambda: vectors(IMAGES, [1]),
        ("pictures has the roles []", "'embedding'", "card's roles"),
    ),
    Case(
        "fit with the card",
        lambda: train(given[0], IMAGES, given[2]),
        ("fit got the card 'pictures'", "give card.frozen"),
    ),
    Case(
        "fit with its arguments swapped",
        lambda: train(given[1], given[0], given[2]),
        ("fit got a dict of ['params'] for the program", "fit(program, card.frozen"),
    ),
    Case(
        "fit with the task before the weights",
        lambda: train(given[0], given[2], given[1]),
        ("fit got the task for the frozen tree", "fit(program, card.frozen, task"),
    ),
    Case(
        "fit with one split",
        lambda: train(given[0], given[1], fitting.TASK.train),
        ("fit got a Split for the task", "data.from_arrays"),
    ),
    Case(
        "fit with a task of texts",
        lambda: train(given[0], given[1], TEXTS),
        ("the task 'toy' of texts", "text.tasks.encoded"),
    ),
    Case(
        "fit with a rate for its optimiser",
        lambda: train(*given, optimizer=0.1),
        ("got optimizer=0.1", "optax.adam(0.1)"),
    ),
    Case(
        "fit with an optimiser that was not called",
        lambda: train(*given, optimizer=optax.adam),
        ("optimizer=the function adam", "adam(.05)"),
    ),
    Case(
        "fit with learnable integers",
        lambda: train(INTEGERS, *given[1:]),
        ("int32[8,8,3] at 'normalized'", "no gradient", "float32", "fit_black_box"),
    ),
    Case(
        "a cache with its arguments swapped",
        lambda: cached(given[0], given[2], given[1]),
        ("cached got the task for the frozen tree", "cached(program, card.frozen, t"),
    ),
    Case(
        "a cache of texts",
        lambda: cached(given[0], given[1], TEXTS),
        ("cached got the task 'toy' of texts", "text.tasks.encoded"),
    ),
    Case(
        "a black box with the forward for its program",
        lambda: asked(IMAGES.forward, None, given[2], None),
        ("fit_black_box got the function", "(program, oracle, task, search"),
    ),
    Case(
        "a black box with the weights for its oracle",
        lambda: asked(*given, None),
        ("fit_black_box got a dict of ['params'] for the oracle", "in_process(card)"),
    ),
    Case(
        "a black box with an optimiser for its search",
        lambda: asked(given[0], Oracle(len, 3), given[2], optax.adam(0.1)),
        ("for the search, expected a Search", "searches.spsa"),
    ),
    Case(
        "one site to record",
        lambda: record(PROGRAM.apply, "hidden"),
        ("record got the text 'hidden'", "['hidden']"),
    ),
)


# -- mistakes in a part of one's own


def own(apply: Any = None, init: Any = None, **more: Any) -> Manipulation:
    """A manipulation that scales, but for what is wrong with it."""
    right_init = lambda key, v, scope: Params({"scale": jnp.ones(v.shape[-1])})
    right = lambda params, v, scope: params.learnable["scale"] * v
    return Manipulation(init or right_init, apply or right, **more)


def my_format(read: Any = None, init: Any = None) -> Format:
    """A format of numbers, but for what is wrong with it."""
    right_init = lambda key, shape, scope: Params(jnp.zeros(shape))
    return Format(init or right_init, read or (lambda p, v, scope: p.learnable))


def at_hidden(*args: Any, **kw: Any) -> Callable[[], Any]:
    return lambda: made({"hidden": own(*args, **kw)})


def at_format(**kw: Any) -> Callable[[], Any]:
    return lambda: made({"hidden": add(my_format(**kw))})


def counted(observe: Any = None, refresh: Any = None) -> Callable[[], Any]:
    """A run whose alignment is estimated."""
    alike = lambda params, sums: params
    sums = lambda params, y, labels: jnp.zeros(3)
    alignment = Manipulation(
        lambda key, y, scope: Params(fixed=jnp.ones((y.shape[-1], 3))),
        lambda params, y, scope: y @ params.fixed,
        observe or sums,
        refresh or alike,
    )
    program = reprogram(fitting.FORWARD, {"output": alignment})
    return lambda: train(program, *given[1:])


HIDDEN = "the manipulation of 'hidden' (own)"
FORMAT = ("the manipulation of 'hidden' (add(my_format))",)


def reads_more(frozen: Any, x: Any, edit: Any) -> Any:
    h = edit("hidden", edit("input", x) @ frozen["a"])
    return edit("output", h @ frozen["head"])


def no_output(frozen: Any, x: Any, edit: Any) -> Any:
    return edit("hidden", edit("input", x) @ frozen["a"])


def no_input(frozen: Any, x: Any, edit: Any) -> Any:
    return edit("output", edit("hidden", x @ frozen["a"]))


def no_return(frozen: Any, x: Any, edit: Any) -> Any:
    edit("output", edit("hidden", edit("input", x) @ frozen["a"]))


def own_answer(frozen: Any, x: Any, edit: Any) -> Any:
    y = edit("hidden", edit("input", x) @ frozen["a"])
    edit("output", y)
    return y


def twice_named(frozen: Any, x: Any, edit: Any) -> Any:
    h = edit("hidden", edit("hidden", edit("input", x) @ frozen["a"]))
    return edit("output", h)


MISTAKES: tuple[Case, ...] = (
    Case(
        "init returns a dict",
        at_hidden(init=lambda key, v, scope: {"scale": jnp.ones(7)}),
        (HIDDEN, "a dict of ['scale'] for params", "return Params(learnable)"),
    ),
    Case(
        "init returns nothing",
        at_hidden(init=lambda key, v, scope: None),
        (HIDDEN, "init gave None for params", "return Params(learnable)"),
    ),
    Case(
        "init returns a function among its params",
        at_hidden(init=lambda key, v, scope: Params({"scale": jnp.tanh})),
        (HIDDEN, "hold the function tanh at .learnable['scale']", "closure"),
    ),
    Case(
        "init asks for a width that there is not",
        at_hidden(init=lambda key, v, scope: Params(jnp.ones(v.shape[5]))),
        (HIDDEN, "init on float32[4,7] raised IndexError", "border.py, line"),
    ),
    Case(
        "init takes other arguments",
        at_hidden(init=lambda v: Params()),
        ("'hidden' got the manipulation own", "(v)", "(key, spec, scope)"),
    ),
    Case(
        "apply takes other arguments",
        at_hidden(apply=lambda params, v: v),
        ("'hidden' got the manipulation own", "(params, v)", "(params, value, scope)"),
    ),
    Case(
        "apply reads a key that init did not give",
        at_hidden(apply=lambda params, v, scope: v * params.learnable["scales"]),
        (HIDDEN, "KeyError: 'scales'", "learnable ['scale']", "did you mean 'scale'"),
    ),
    Case(
        "apply reads an attribute that there is not",
        at_hidden(apply=lambda params, v, scope: v * params.learned["scale"]),
        (HIDDEN, "AttributeError", "'learned'", "its own apply(params"),
    ),
    Case(
        "apply meets shapes that do not fit",
        at_hidden(apply=lambda params, v, scope: v + jnp.ones(5)),
        (HIDDEN, "apply on float32[4,7] raised", "(4, 7), (5,)", "border.py, line"),
    ),
    Case(
        "apply asks for a number in an if",
        at_hidden(apply=lambda params, v, scope: v if v.sum() > 0 else -v),
        (HIDDEN, "TracerBoolConversionError", "jnp.where"),
    ),
    Case(
        "apply uses NumPy",
        at_hidden(apply=lambda params, v, scope: np.sort(np.asarray(v))),
        (HIDDEN, "TracerArrayConversionError", "NumPy's functions by jnp's"),
    ),
    Case(
        "apply returns nothing",
        at_hidden(apply=lambda params, v, scope: None),
        (HIDDEN, "apply returned None", "return the value"),
    ),
    Case(
        "apply returns a dict",
        at_hidden(apply=lambda params, v, scope: {"value": v}),
        (
            HIDDEN,
            "made a dict of float32[4,7] out of",
            "return the value itself",
        ),
    ),
    Case(
        "apply returns whole numbers",
        at_hidden(apply=lambda params, v, scope: v.astype(jnp.int32)),
        (HIDDEN, "made int32[4,7] out of float32[4,7]", "expected floats", "astype"),
    ),
    Case(
        "apply loses the rows",
        at_hidden(apply=lambda params, v, scope: v.mean(0)),
        (HIDDEN, "made float32[7] out of float32[4,7]", "a row for each of the batch"),
    ),
    Case(
        "apply makes another width, and the model fails on it",
        at_hidden(apply=lambda params, v, scope: jnp.concatenate([v, v], 1)),
        ("the forward (dense) after the site 'hidden' (float32[4,14])", "toys.py"),
    ),
    Case(
        "a part of a chain reads a missing key",
        lambda: made(
            {
                "hidden": chain(
                    mark=add(soft),
                    own=own(lambda params, v, scope: params.learnable["shift"]),
                )
            }
        ),
        ("of 'hidden' (chain(mark=add(learnable), own))", "part 'own'", "'shift'"),
    ),
    Case(
        "a part of a chain in a chain returns nothing",
        lambda: made({"input": chain(a=chain(b=own(lambda params, v, scope: None)))}),
        ("of 'input'", "part 'a'", "part 'b' (own)", "apply returned None"),
    ),
    Case(
        "a part for one site at several",
        lambda: made({("hidden", "input"): own()}),
        ("of 'hidden' and 'input' (own)", "several sites", "shared(manipulation)"),
    ),
    Case(
        "a shared part that fits one of its sites",
        lambda: made({("hidden", "input"): shared(own())}),
        ("of 'input' (own)", "float32[4,6] raised", "(7,)"),
    ),
    Case(
        "a mask network that returns nothing",
        lambda: made({"input": masked_add(soft, own(lambda params, v, scope: None))}),
        ("of 'input' (masked_add(learnable, own))", "raised TypeError"),
    ),
    Case(
        "a stateless function fails",
        lambda: made({"hidden": stateless(lambda v: v.shapes)}),
        ("the manipulation of 'hidden'", "AttributeError", "border.py, line"),
    ),
    Case(
        "observe without refresh",
        lambda: made({"output": own(observe=lambda params, y, labels: y.sum())}),
        ("'output' got the manipulation own", "observe and no refresh"),
    ),
    Case(
        "observe returns nothing",
        counted(observe=lambda params, y, labels: None),
        ("the manipulation of 'output' (counted)", "observe gave None", "sums"),
    ),
    Case(
        "observe fails",
        counted(observe=lambda params, y, labels: y @ labels),
        ("of 'output' (counted)", "observe on float32[4,5] raised TypeError"),
    ),
    Case(
        "refresh returns its sums",
        counted(refresh=lambda params, sums: sums),
        ("of 'output' (counted)", "for params, expected Params"),
    ),
    Case(
        "refresh makes another map",
        counted(refresh=lambda params, sums: Params(fixed=sums)),
        ("of 'output' (counted)", "refresh gave float32[3] for fixed", "float32[5,3]"),
    ),
    Case(
        "a format's init returns an array",
        at_format(init=lambda key, shape, scope: jnp.zeros(shape)),
        (*FORMAT, "its format (my_format)", "an array float32[7] for params"),
    ),
    Case(
        "a format's init takes other arguments",
        at_format(init=lambda key, shape: Params()),
        ("add got the format my_format", "(key, shape)", "(key, shape, scope)"),
    ),
    Case(
        "a format reads a missing key",
        at_format(read=lambda params, v, scope: params.learnable["prompt"]),
        (*FORMAT, "its format (my_format)", "read on float32[4,7] raised"),
    ),
    Case(
        "a format reads a dict",
        at_format(read=lambda params, v, scope: {"prompt": params.learnable}),
        (*FORMAT, "its format (my_format)", "read gave a dict of ['prompt']"),
    ),
    Case(
        "a format reads another shape",
        at_format(read=lambda params, v, scope: jnp.zeros(3)),
        (*FORMAT, "a prompt of shape (3,)", "expected (7,)"),
    ),
    Case(
        "a format reads another length",
        lambda: reprogram(
            decoder,
            {"embed:out": replace(my_format(lambda p, v, s: jnp.zeros((3, 9))), 3)},
        ).init(KEY, DECODER_FROZEN, SENTENCES),
        ("of 'embed:out' (replace(my_format))", "a prompt of shape (3, 9)"),
    ),
    Case(
        "an initialiser that was not given its scale",
        lambda: made({"hidden": add(learnable(normal))}),
        ("learnable got the function normal of (stddev", "normal(.02)"),
    ),
    Case(
        "an initialiser of another shape",
        lambda: made({"hidden": add(learnable(lambda key, shape, dtype: jnp.ones(2)))}),
        ("of 'hidden' (add(learnable))", "float32[2]", "a prompt of (7,)"),
    ),
    Case(
        "a forward reads what the frozen tree has not",
        lambda: made({"hidden": add(soft)}, reads_more),
        ("the forward (reads_more)", "after the site 'hidden'", "holds ['a', 'b']"),
    ),
    Case(
        "a forward without an output",
        lambda: made({"hidden": add(soft)}, no_output),
        ("the forward (no_output)", "['output'] too", 'return edit("output", y)'),
    ),
    Case(
        "a forward without an input",
        lambda: made({"hidden": add(soft)}, no_input),
        ("the forward (no_input)", "['input'] too", 'x = edit("input", x)'),
    ),
    Case(
        "a forward that returns nothing",
        lambda: made({"hidden": add(soft)}, no_return),
        ("the forward (no_return)", "returned None", 'return edit("output", y)'),
    ),
    Case(
        "a forward that drops the edit of its answer",
        lambda: made({"output": linear(3)}, own_answer),
        ("the forward (own_answer)", "before the edit of 'output'", "return edit("),
    ),
    Case(
        "a forward that names two places alike",
        lambda: made({"hidden": add(soft)}, twice_named),
        ("came to 'hidden' twice", 'edit("hidden#2", value)'),
    ),
    Case(
        "an edit from outside fails",
        lambda: PROGRAM.apply(
            PARAMS, DENSE_FROZEN, ROWS, edit=lambda site, v: {"input": v}[site]
        ),
        ("the edit of 'hidden/raw'", "KeyError", "(site, value) -> value"),
    ),
    Case(
        "a loss reads what is not recorded",
        lambda: train(*given, loss=lambda seen: seen.recorded["features"]),
        ("'features'", "record_sites"),
    ),
    Case(
        "a loss takes other arguments",
        lambda: train(*given, loss=lambda seen, labels: seen[labels]),
        ("the loss (", "takes (seen, labels)", "expected a function of (seen)"),
    ),
    Case(
        "a loss fails",
        lambda: train(*given, loss=lambda seen: seen.output @ seen.labels[:2]),
        ("the loss (", "raised TypeError", "border.py, line", "'output'"),
    ),
    Case(
        "a loss returns a dict",
        lambda: train(*given, loss=lambda seen: {"loss": seen.output}),
        ("the loss gave a dict of float32[4,3]", "a value for each label"),
    ),
)
SENTENCES = Tokens(
    jnp.ones((2, 5), jnp.int32), jnp.tile(jnp.arange(5), (2, 1)), jnp.ones((2, 5))
)


def message(case: Case) -> str:
    """What is said, or what is wrong with it."""
    try:
        case.run()
    except ValueError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}, which is not ours: {error}"
    return "nothing: it went on in silence"


def main(words: list[str]) -> None:
    for case in (*SLIPS, *MISTAKES):
        if not words or any(word in case.name for word in words):
            print(f"{case.name}\n    {message(case)}\n", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
