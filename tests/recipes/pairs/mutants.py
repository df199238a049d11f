"""Wrong variants that tests beside this file must notice."""

from mutation import Mutant

MAPLE = "recipes/prompt_tuning/multimodal_prompts.py"
TEST_MAPLE = "test_multimodal_prompts.py"
IVLP = "recipes/prompt_tuning/independent_prompts.py"
DESCRIPTIONS = "alignments/descriptions.py"
TEST_ATTRVR = "test_attribute_reprogramming.py"
PLOT = "recipes/prompt_tuning/optimal_transport.py"
TEST_PLOT = "test_optimal_transport.py"
DVP = "recipes/model_reprogramming/decoupled_visual_prompts.py"
TEST_DVP = "test_decoupled_visual_prompts.py"
RVP = "recipes/model_reprogramming/related_classes.py"
TEST_RVP = "test_related_classes.py"
FOLDING = "recipes/folding.py"
TEST_FOLDING = "test_folding.py"
TEST_IVLP = "test_independent_prompts.py"

MUTANTS = (
    Mutant(
        "maple: later image prompts stand beside the earlier ones",
        MAPLE,
        "first if scope.index == depth else image",
        "first",
        TEST_MAPLE,
    ),
    Mutant(
        "maple: later text prompts stand beside the earlier ones",
        MAPLE,
        "here = text if",
        "here = (insert(prompt, length, at=1) if scope.index else text) if",
        TEST_MAPLE,
    ),
    Mutant(
        "maple: prompts in front of the words, not in their place",
        MAPLE,
        "here = text if",
        "here = (text if scope.index else insert(prompt, length, at=1)) if",
        TEST_MAPLE,
    ),
    Mutant(
        "maple: image prompts behind the class token",
        MAPLE,
        "first = insert(prompt, length, at=None)",
        "first = insert(prompt, length, at=1)",
        TEST_MAPLE,
    ),
    Mutant(
        "maple: image prompts enter behind the norm",
        MAPLE,
        "(patches[0], *images[1:depth])",
        "images[:depth]",
        TEST_MAPLE,
    ),
    Mutant(
        "maple: one linear map for all layers",
        MAPLE,
        'own["kernel"][layer]',
        'own["kernel"][0]',
        TEST_MAPLE,
    ),
    Mutant(
        "maple: linear maps of all layers start alike",
        MAPLE,
        "jnp.stack([a, *[b] * (depth - 1)])",
        "jnp.stack([b] * depth)",
        TEST_MAPLE,
    ),
    Mutant(
        "ivlp: later image prompts stand beside the earlier ones",
        IVLP,
        "{site: replace(drawn, length, at=None) for site in image}",
        "{site: insert(drawn, length, at=None) for site in image}",
        TEST_IVLP,
    ),
    Mutant(
        "ivlp: later text prompts stand beside the earlier ones",
        IVLP,
        "{site: replace(drawn, length, at=1) for site in text}",
        "{site: insert(drawn, length, at=1) for site in text}",
        TEST_IVLP,
    ),
    Mutant(
        "promptsrc: features as they are, not of unit length",
        IVLP,
        "jnp.abs(unit(x) - unit(y))",
        "jnp.abs(x - y)",
        TEST_IVLP,
    ),
    Mutant(
        "promptsrc: squared differences",
        IVLP,
        "jnp.abs(unit(x) - unit(y))",
        "(unit(x) - unit(y)) ** 2",
        TEST_IVLP,
    ),
    Mutant(
        "promptsrc: the frozen features are those with prompts",
        IVLP,
        "frozen, teacher = scope.context, params.fixed",
        "frozen, teacher = value, params.fixed",
        TEST_IVLP,
    ),
    Mutant(
        "promptsrc: the divergence of the frozen answers from the new ones",
        IVLP,
        "(jnp.exp(old) * (old - log))",
        "(jnp.exp(log) * (log - old))",
        TEST_IVLP,
    ),
    Mutant(
        "promptsrc: the divergence of a row, not over its classes",
        IVLP,
        "(old - log)).mean(-1)",
        "(old - log)).sum(-1)",
        TEST_IVLP,
    ),
    Mutant(
        "promptsrc: the weights of images and of texts are exchanged",
        IVLP,
        "image: float = 10.0, text: float = 25.0",
        "image: float = 25.0, text: float = 10.0",
        TEST_IVLP,
    ),
    Mutant(
        "promptsrc: the last params alone",
        IVLP,
        "gaussian_epochs(0.75, 0.05)",
        "lambda epochs: [0.0] * (epochs - 1) + [1.0]",
        TEST_IVLP,
    ),
    Mutant(
        "averages: params before an epoch's last step",
        "training/averages.py",
        "after = optax.apply_updates(params, moved)",
        "after = params",
        TEST_IVLP,
    ),
    Mutant(
        "averages: an epoch's share of all weights, not of those so far",
        "training/averages.py",
        "(found / np.where(so_far > 0, so_far, 1))",
        "(found / found.sum())",
        TEST_IVLP,
    ),
    Mutant(
        "averages: the optimiser inside does not get the loss",
        "training/averages.py",
        "inner.update(updates, state.inner, params, **extra)",
        "inner.update(updates, state.inner, params)",
        TEST_IVLP,
    ),
    Mutant(
        "first words: of the weights with which the program was built",
        "models/image_text/starts.py",
        'table_at(scope.frozen["text"], site)',
        'table_at(model.frozen["text"], site)',
        "test_first_words.py",
    ),
    Mutant(
        "first words: room behind them",
        "models/image_text/starts.py",
        "((shape[0] - count, 0), (0, 0))",
        "((0, shape[0] - count), (0, 0))",
        "test_first_words.py",
    ),
    Mutant(
        "tip-adapter-f: training starts with an empty cache",
        "recipes/prompt_tuning/tip_adapter.py",
        "return with_examples(params, queries(model, train), np.asarray(train.y))",
        "return params",
        "test_by_name.py",
    ),
    Mutant(
        "averages: epochs are counted from 1 instead of 0 to N",
        "training/averages.py",
        "np.arange(1, epochs + 1)",
        "np.arange(epochs)",
        TEST_IVLP,
    ),
    Mutant(
        "attrvr: all attributes count",
        DESCRIPTIONS,
        "jax.lax.top_k(found, count)[0].mean(-1)",
        "found.mean(-1)",
        TEST_ATTRVR,
    ),
    Mutant(
        "attrvr: the nearest attribute alone",
        DESCRIPTIONS,
        "jax.lax.top_k(found, count)[0].mean(-1)",
        "found.max(-1)",
        TEST_ATTRVR,
    ),
    Mutant(
        "attrvr: the weights of the kinds are exchanged",
        "recipes/model_reprogramming/attribute_reprogramming.py",
        "shares=(share, 1 - share)",
        "shares=(1 - share, share)",
        TEST_ATTRVR,
    ),
    Mutant(
        "attrvr: texts stand class by class",
        DESCRIPTIONS,
        "y.reshape(len(y), len(shares), targets, -1)",
        "y.reshape(len(y), targets, len(shares), -1).swapaxes(1, 2)",
        TEST_ATTRVR,
    ),
    Mutant(
        "plot: the class token is one of the patches",
        "models/image_text/towers.py",
        '.apply({"params": own["norm"]}, tokens[:, 1:])',
        '.apply({"params": own["norm"]}, tokens)',
        TEST_PLOT,
    ),
    Mutant(
        "plot: no transport, the mean cosine of all pairs",
        PLOT,
        "(plans(cosine, sharpness, iterations) * cosine).sum((-2, -1))",
        "cosine.mean((-2, -1))",
        TEST_PLOT,
    ),
    Mutant(
        "plot: a gradient through the plan",
        PLOT,
        "jax.lax.stop_gradient(cosine).astype",
        "cosine.astype",
        TEST_PLOT,
    ),
    Mutant(
        "plot: prompts and classes are exchanged",
        PLOT,
        "texts = texts.reshape(prompts, -1, texts.shape[-1])",
        "texts = texts.reshape(-1, prompts, texts.shape[-1]).swapaxes(0, 1)",
        TEST_PLOT,
    ),
    Mutant(
        "dvp: one border for all kinds",
        "formats/learnable.py",
        "return jnp.repeat(prompts, rows // count, 0)",
        "return jnp.repeat(prompts[:1], rows, 0)",
        TEST_DVP,
    ),
    Mutant(
        "dvp: each border is compared with all kinds",
        DVP,
        'jnp.einsum("kbktm->btkm", y)',
        "y.mean(0).swapaxes(1, 2)",
        TEST_DVP,
    ),
    Mutant(
        "dvp: texts of a class stand kind by kind",
        DVP,
        '"kbktm->btkm"',
        '"kbktm->bktm"',
        TEST_DVP,
    ),
    Mutant(
        "dvp: the nearest text alone is counted",
        DESCRIPTIONS,
        "hits = jax.nn.one_hot(jax.lax.top_k(own, count)[1], each).sum(1)",
        "hits = jax.nn.one_hot(own.argmax(-1), each)",
        TEST_DVP,
    ),
    Mutant(
        "dvp: weights stay equal",
        DESCRIPTIONS,
        "fixed=jnp.where(total > 0, shares, 1 / sums.shape[-1])",
        "fixed=jnp.where(total > 0, 1.0, 1.0) / sums.shape[-1] + 0 * shares",
        TEST_DVP,
    ),
    Mutant(
        "rvp: weights as they are, without a softmax",
        DESCRIPTIONS,
        'jax.nn.softmax(own["within"])',
        'own["within"]',
        TEST_RVP,
    ),
    Mutant(
        "rvp: a matrix in the place of the correction",
        DESCRIPTIONS,
        'return classes + classes @ own["between"]',
        'return 0 * classes + classes @ own["between"]',
        TEST_RVP,
    ),
    Mutant(
        "rvp: one rate for all",
        RVP,
        "falling(learning_rate / ratio, steps, epochs)",
        "falling(learning_rate, steps, epochs)",
        TEST_RVP,
    ),
    Mutant(
        "folding: features keep their length",
        FOLDING,
        'read(y) @ own["kernel"]',
        'y @ own["kernel"]',
        TEST_FOLDING,
    ),
    Mutant(
        "folding: answers are not compared",
        FOLDING,
        "if not (gap := _gap(answers, wanted)) <= tolerance:",
        "if not (gap := 0.0) <= tolerance:",
        TEST_FOLDING,
    ),
)
