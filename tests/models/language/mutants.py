"""Wrong variants that tests beside this file must notice."""

from mutation import Mutant

LAYERS = "models/language/layers.py"

MUTANTS = (
    Mutant(
        "language: a query sees what has a lower index",
        LAYERS,
        "back = position[:, :, None] - kv.position[:, None, :]",
        "i, j = position.shape[1], kv.position.shape[1]\n        "
        "back = (jnp.arange(i)[:, None] - jnp.arange(j) + j - i)[None]",
        "test_language_layers.py",
    ),
    Mutant(
        "language: bfloat16's slopes are summed in bfloat16",
        LAYERS,
        "by_x = _summed(g, kernel, range(len(rows), g.ndim), others)",
        "by_x = jnp.tensordot(g, kernel, (tuple(range(len(rows), g.ndim)), others))",
        "test_language_layers.py",
    ),
    Mutant(
        "language: a group's queries ask another group's keys",
        LAYERS,
        "*own[1:3], size).transpose(0, 2, 3, 1, 4)",
        "own[2], own[1], size).transpose(0, 3, 2, 1, 4)",
        "test_language_layers.py",
    ),
    Mutant(
        "language: an id beyond the table is its neighbour",
        LAYERS,
        "rows_of(self.embedding, ids)",
        "self.embedding[ids]",
        "test_language_layers.py",
    ),
    Mutant(
        "language: the id -1 is the last word",
        LAYERS,
        ", wrap_negative_indices=False",
        "",
        "test_language_layers.py",
    ),
    Mutant(
        "language: GGUF's rotated pairs are left as neighbours",
        "models/language/llama.py",
        'Family("Llama, GGUF names", plan, GGUF, in_halves, Settings)',
        'Family("Llama, GGUF names", plan, GGUF, settings=Settings)',
        "test_gguf_files.py",
    ),
    Mutant(
        "language: GPT-2's kernels as torch's linear ones",
        "models/language/gpt2.py",
        "name: t.T if re.search",
        "name: t if re.search",
        "test_language_load.py::test_the_card",
    ),
    Mutant(
        "language: a head of its own is passed over in a tied model",
        "models/language/family.py",
        "if own is not None and not np.array_equal(own, other):",
        "if False:",
        "test_language_settings.py",
    ),
    Mutant(
        "language: EOS stands behind a causal model's prompt",
        "models/language/tokenizer.py",
        "behind = 0 if ends else _behind_text(rust)",
        "behind = 0",
        "test_tokenizer.py",
    ),
    Mutant(
        "language: a tokeniser cuts what is long in silence",
        "models/language/tokenizer.py",
        "rust.no_truncation()",
        "rust.no_padding()",
        "test_tokenizer.py",
    ),
    Mutant(
        "abacus without an end: a line goes on",
        "models/language/abacus.py",
        """Special(eos=(IDS["\\n"],))""",
        "Special()",
        "test_abacus.py::test_it_writes_to_the_end_of_a_line",
    ),
    Mutant(
        "abacus leaves out what it has no token for",
        "models/language/abacus.py",
        "        if unknown:",
        "        text = [c for c in text if c in IDS]\n        if False:",
        "test_abacus.py::test_other_characters_are_refused",
    ),
    Mutant(
        "one word: a masked model answers at its end",
        "models/language/maps.py",
        "place = at_mask(model.input.special.mask)",
        "place = stateless(last_token)",
        "test_maps.py::test_a_masked_model_answers_at_its_mask",
    ),
)
