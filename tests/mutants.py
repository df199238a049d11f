"""Wrong variants that are easily written, each with the test that must notice it.

    python tests/mutants.py             all of them, in a copy of the repository
    python tests/mutants.py smm vpt     those with one of these words

Each is a snippet of the right code and a wrong one in its place. The tests are run on
the right code first. The exit status is 1 if a test stays green on wrong code, and 2 if
a snippet is no longer where it was, or a test cannot be run.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("reprojax", "experiments", "tests", "docs", "pyproject.toml")
SECONDS = 120  # a test that takes longer hangs


class Mutant(NamedTuple):
    """A wrong variant."""

    what: str
    file: str
    """Below reprojax/."""
    right: str
    """Stands once in the file."""
    wrong: str
    test: str
    """Below tests/, as pytest names it."""


PADDING = "recipes/model_reprogramming/label_mapping.py"
AR = "recipes/model_reprogramming/adversarial_reprogramming.py"
VP = "recipes/model_reprogramming/visual_prompting.py"
SMM = "recipes/model_reprogramming/sample_specific_masks.py"
VPT = "recipes/prompt_tuning/visual_prompt_tuning.py"
CONTROLS = "recipes/controls.py"
MAPS = "alignments/statistical.py"
IMAGES = "operators/images.py"
ZEROTH = "searches/zeroth_order.py"
ORACLE = "searches/oracle.py"
BAR = "recipes/model_reprogramming/black_box_reprogramming.py"
VIP = "recipes/prompt_tuning/black_box_visual_prompting.py"
SOFT = "recipes/prompt_tuning/soft_prompts.py"
PREFIX = "recipes/prompt_tuning/prefixes.py"
REFT = "recipes/prompt_tuning/hidden_edits.py"
PT2 = "recipes/prompt_tuning/p_tuning_v2.py"
STEER = "recipes/prompt_tuning/activation_addition.py"
BBT = "recipes/prompt_tuning/black_box_tuning.py"
DEPT = "recipes/prompt_tuning/decomposed_prompt_tuning.py"
CENTRED = "alignments/statistical.py"
REMAP = "recipes/model_reprogramming/vocabulary_remapping.py"
WORDS = "recipes/model_reprogramming/vocabulary_maps.py"
POOLING = "alignments/rule.py"
CHAIN = '__import__("reprojax").chain'
LAYERS = "models/language/layers.py"
READING, WRITING = "decoding/reading.py", "decoding/writing.py"
SAMPLING = "decoding/sampling.py"

MUTANTS = (
    Mutant(
        "pooling: padding counts",
        POOLING,
        "jnp.where(y.position >= start, y.weight, 0)",
        "jnp.where(y.position >= start, 1.0, 0.0)",
        "alignments/test_pooling.py::test_the_mean_of_real_tokens_by_weight",
    ),
    Mutant(
        "pooling: the slope of a norm at zero",
        POOLING,
        "jnp.sqrt(jnp.maximum(square, 1e-24))",
        "jnp.maximum(jnp.sqrt(square), 1e-12)",
        "alignments/test_pooling.py::test_a_row_of_padding_gives_zeros_and_no_nan",
    ),
    Mutant(
        "ar: the frame enters after normalisation",
        AR,
        '{"input": place}, align)',
        '{"input": resize(model.input.size), "normalized": place}, align)',
        "recipes/test_adversarial_reprogramming.py",
    ),
    Mutant(
        "ar: tanh as it is, outside of [0, 1]",
        AR,
        "(1 + jnp.tanh(w)) / 2",
        "jnp.tanh(w)",
        "recipes/test_adversarial_reprogramming.py",
    ),
    Mutant(
        "ar: the program lies on the image too",
        AR,
        "*border_around(inner, model))",
        "*border_around(inner, model), overlap=True)",
        "recipes/test_adversarial_reprogramming.py",
    ),
    Mutant(
        "ar: the loss is among the task's classes alone",
        AR,
        "loss=with_norm(5e-7, likelihood),",
        "loss=with_norm(5e-7),",
        "recipes/test_adversarial_reprogramming.py",
    ),
    Mutant(
        "ar: the first T classes without the others",
        AR,
        "of_probabilities(aligned(align, targets, first))",
        "aligned(align, targets, first)",
        "recipes/test_adversarial_reprogramming.py",
    ),
    Mutant(
        "ar: the program starts near grey",
        AR,
        "deviation: float = 1.0",
        "deviation: float = 0.01",
        "recipes/test_adversarial_reprogramming.py",
    ),
    Mutant(
        "border: the odd pixel behind the image",
        "recipes/sizes.py",
        "(room - room // 2, room // 2)",
        "(room // 2, room - room // 2)",
        "recipes/test_label_mapping.py",
    ),
    Mutant(
        "augmented: evaluated on crops",
        IMAGES,
        "            return whole.apply(Params(), x, scope)",
        "            return cut.apply(params, x, scope)",
        "recipes/test_label_mapping.py",
    ),
    Mutant(
        "bar: every class weighs the same",
        BAR,
        "focal(weights=balance(labels, targets))",
        "focal()",
        "recipes/test_black_box_reprogramming.py",
    ),
    Mutant(
        "smm: a deep mask network learns as fast as the prompt",
        SMM,
        '"constant" if "BatchNorm_4" in mask else "falling"',
        '"falling"',
        "recipes/test_method.py",
    ),
    Mutant(
        "smm: five layers for a transformer",
        SMM,
        "6 if is_transformer(model) else 5",
        "5",
        "recipes/test_sample_specific_masks.py",
    ),
    Mutant(
        "smm: one mask of the first map",
        SMM,
        "x.mean(-1, keepdims=True)",
        "x[..., :1]",
        "recipes/test_sample_specific_masks.py",
    ),
    Mutant(
        "vpt: a head that starts small",
        VPT,
        "(2 / targets) ** 0.5",
        "0.037",
        "recipes/test_visual_prompt_tuning.py",
    ),
    Mutant(
        "vp: the warm-up grows with the run",
        VP,
        "sgd_cosine(warmup=1000)",
        "sgd_cosine(warmup=0.02)",
        "recipes/test_method.py",
    ),
    Mutant(
        "padding: the border enters after normalisation",
        PADDING,
        '{"input": chain(resize=operators.resize(inner), border=place)}',
        '{"input": operators.resize(backbone.input.size), '
        '"normalized": chain(resize=operators.resize(inner), border=place)}',
        "recipes/test_label_mapping.py",
    ),
    Mutant(
        "padding: the border starts at zero",
        PADDING,
        "stateless(jax.nn.sigmoid)",
        "stateless(jax.numpy.tanh)",
        "recipes/test_label_mapping.py",
    ),
    Mutant(
        "watermark: added before normalisation",
        PADDING,
        '{"input": whole, "normalized": operators.add(learnable(zeros))}',
        '{"input": chain(whole=whole, prompt=operators.add(learnable(zeros)))}',
        "recipes/test_label_mapping.py",
    ),
    Mutant(
        "watermark: no mirror in training",
        PADDING,
        "operators.augmented(size, scaled(228, model))",
        "chain(a=operators.resize(scaled(228, model)), b=operators.crop(size))",
        "recipes/test_label_mapping.py",
    ),
    Mutant(
        "vp: strips added before normalisation",
        VP,
        '{"input": resize(model.input.size), "normalized": add(strips)}',
        f'{{"input": {CHAIN}(a=resize(model.input.size), b=add(strips))}}',
        "recipes/test_visual_prompting.py",
    ),
    Mutant(
        "vp: a prompt over the whole image",
        VP,
        "add(strips)}",
        "add(learnable(normal(1.0)))}",
        "recipes/test_visual_prompting.py",
    ),
    Mutant(
        "vp: strips that start small",
        VP,
        "normal(1.0)",
        "normal(0.1)",
        "recipes/test_visual_prompting.py",
    ),
    Mutant(
        "smm: masks and prompt before normalisation",
        SMM,
        '{"input": whole, "normalized": pattern}',
        f'{{"input": {CHAIN}(a=whole, b=pattern)}}',
        "recipes/test_sample_specific_masks.py",
    ),
    Mutant(
        "smm: masks bounded by a sigmoid",
        "operators/parametric.py",
        "cast_like(mask * prompt, value)",
        "cast_like(jax.nn.sigmoid(mask) * prompt, value)",
        "recipes/test_sample_specific_masks.py",
    ),
    Mutant(
        "smm: masks tiled instead of enlarged",
        SMM,
        "jnp.repeat(jnp.repeat(x, side, axis=1), side, axis=2)",
        "jnp.tile(x, (1, side, side, 1))",
        "recipes/test_sample_specific_masks.py",
    ),
    Mutant(
        "smm: stored statistics in training",
        SMM,
        "nn.BatchNorm(not train,",
        "nn.BatchNorm(True,",
        "recipes/test_sample_specific_masks.py",
    ),
    Mutant(
        "smm: one layer too wide",
        SMM,
        "8 * 2**i",
        "(8 * 2**i + (i == 2))",
        "recipes/test_sample_specific_masks.py",
    ),
    Mutant(
        "vpt: tokens before the class token",
        VPT,
        "insert(prompt, length, at=1)",
        "insert(prompt, length, at=0)",
        "recipes/test_visual_prompt_tuning.py",
    ),
    Mutant(
        "vpt: deep tokens inserted, not replaced",
        VPT,
        "replace(prompt, length, at=1) for",
        "insert(prompt, length, at=1) for",
        "recipes/test_visual_prompt_tuning.py",
    ),
    Mutant(
        "vpt: Xavier's bound of the tokens themselves",
        VPT,
        "(6 / (3 * side**2 + shape[-1]))",
        "(6 / (shape[0] + shape[-1]))",
        "recipes/test_visual_prompt_tuning.py",
    ),
    Mutant(
        "vpt: shallow is two blocks deep",
        VPT,
        "length=length, depth=1)",
        "length=length, depth=2)",
        "recipes/test_visual_prompt_tuning.py",
    ),
    Mutant(
        "vpt: gradients are not clipped",
        "recipes/method.py",
        "optax.chain(optax.clip_by_global_norm(clip), sgd) if clip else sgd",
        "sgd",
        "recipes/test_method.py",
    ),
    Mutant(
        "controls: no prompt, and the image resized without smoothing",
        CONTROLS,
        'model.forward, {"input": resize(model.input.size)}, align',
        'model.forward, {"input": resize(model.input.size, "nearest")}, align',
        "recipes/test_controls.py",
    ),
    Mutant(
        "controls: a probe on logits",
        CONTROLS,
        'until(model.forward, role(model, "features")[0])',
        "model.forward",
        "recipes/test_controls.py",
    ),
    Mutant(
        "preset: the rate of Adam falls too late",
        "recipes/method.py",
        "int(0.72 * epochs)",
        "int(0.8 * epochs)",
        "recipes/test_method.py",
    ),
    Mutant(
        "map: rows normalised instead of columns",
        MAPS,
        "total = weight.sum(0, keepdims=True)",
        "total = weight.sum(1, keepdims=True)",
        "recipes/test_named_alignments.py::test_bayesian_columns",
    ),
    Mutant(
        "map: no smoothing",
        MAPS,
        "seen = counts.sum(1, keepdims=True) + smoothing",
        "seen = counts.sum(1, keepdims=True)",
        "recipes/test_named_alignments.py::test_bayesian_columns",
    ),
    Mutant(
        "map: weights on probabilities, not on logits",
        MAPS,
        "return y @ params.fixed.astype(y.dtype)",
        "return jax.nn.softmax(y) @ params.fixed.astype(y.dtype)",
        "recipes/test_named_alignments.py::test_bayesian_columns",
    ),
    Mutant(
        "map: a source class serves two targets",
        MAPS,
        "left = left.at[s].set(-1.0)",
        "left = left.at[s, t].set(-1.0)",
        "recipes/test_named_alignments.py::test_frequent_answers_one_to_one",
    ),
    Mutant(
        "map: k = int(.15 T), which is 0 for few classes",
        MAPS,
        "max(1, int(0.15 * targets))",
        "int(0.15 * targets)",
        "recipes/test_named_alignments.py::test_bayesian_plus_sums_probabilities",
    ),
    Mutant(
        "map: logits summed instead of probabilities",
        MAPS,
        "jax.nn.softmax(y.astype(jnp.float32)), k)",
        "y.astype(jnp.float32), k)",
        "recipes/test_named_alignments.py::test_bayesian_plus_sums_probabilities",
    ),
    Mutant(
        "map: a class that is absent makes NaN",
        MAPS,
        "return jnp.where(total > 0, share, 1 / len(counts))",
        "return weight / total",
        "core/test_estimation.py::test_absent_classes_give_a_whole_map",
    ),
    Mutant(
        "map: rows that fill a batch are counted",
        MAPS,
        "answers.T @ jax.nn.one_hot(labels, targets)",
        "answers.T @ jax.nn.one_hot(labels % targets, targets)",
        "recipes/test_named_alignments.py"
        "::test_rows_that_fill_a_batch_count_for_nothing",
    ),
    Mutant(
        "map: estimated from the task's logits, not the model's",
        "core/estimation.py",
        'return [f"{site}/raw" for site in estimated(program)]',
        'return [f"{site}" for site in estimated(program)]',
        "core/test_estimation.py::test_what_is_counted_is_the_answer_of_the_model_and_not_of"
        "_the_map",
    ),
    Mutant(
        "resize: no antialiasing",
        IMAGES,
        "jax.image.resize(x, shape, method)",
        "jax.image.resize(x, shape, method, antialias=False)",
        "recipes/test_controls.py",
    ),
    Mutant(
        "resize: bytes over 256",
        IMAGES,
        "x.astype(jnp.float32) / 255",
        "x.astype(jnp.float32) / 256",
        "recipes/test_controls.py",
    ),
    Mutant(
        "crop: the corner instead of the centre",
        IMAGES,
        "top, left = room[0] // 2, room[1] // 2",
        "top, left = 0, 0",
        "operators/test_operators.py::test_crop_in_evaluation_is_the_centre",
    ),
    Mutant(
        "crop: one window for the whole batch",
        IMAGES,
        "jax.random.randint(key, (x.shape[0], 2), 0, limits)",
        "jnp.tile(jax.random.randint(key, (2,), 0, limits), (x.shape[0], 1))",
        "recipes/test_label_mapping.py::test_augmentation_crops_and_mirrors_in_training"
        "_alone",
    ),
    Mutant(
        "crop: the last row and column are never reached",
        IMAGES,
        "limits = jnp.array(room) + 1",
        "limits = jnp.maximum(jnp.array(room), 1)",
        "recipes/test_label_mapping.py::test_augmentation_crops_and_mirrors_in_training"
        "_alone",
    ),
    Mutant(
        "flip: upside down",
        IMAGES,
        "x[:, :, ::-1]",
        "x[:, ::-1]",
        "recipes/test_label_mapping.py::test_augmentation_crops_and_mirrors_in_training"
        "_alone",
    ),
    Mutant(
        "padding: the prompt moves pixels inside",
        "operators/concatenative.py",
        "jnp.where(frame(*sides)(canvas.shape), prompt, canvas)",
        "canvas + prompt",
        "recipes/test_label_mapping.py::test_pixels_inside_the_border_never_move",
    ),
    Mutant(
        "frame: a pixel short on the far sides",
        "operators/additive.py",
        "(i >= shape[axis] - after)",
        "(i > shape[axis] - after)",
        "recipes/test_label_mapping.py::test_a_padded_image_stands_in_a_sigmoid_border",
    ),
    Mutant(
        "border: top and bottom exchanged",
        "formats/learnable.py",
        "jnp.concatenate([top, middle, bottom], axis=0)",
        "jnp.concatenate([bottom, middle, top], axis=0)",
        "recipes/test_visual_prompting.py",
    ),
    Mutant(
        "stem: squares start a row too late",
        "models/vision/layers.py",
        "((1, 0), (1, 0), (0, 0), (0, 0))",
        "((0, 1), (0, 1), (0, 0), (0, 0))",
        "models/vision/test_layers.py::test_the_same_weights_give_the_same_values_and_gradients",
    ),
    Mutant(
        "stem: what is odd is cut off",
        "models/vision/layers.py",
        "x = jnp.pad(x, ((0, 0), *((0, n % 2) for n in x.shape[1:3]), (0, 0)))",
        "x = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]",
        "models/vision/test_layers.py::test_the_same_weights_give_the_same_values_and_gradients",
    ),
    Mutant(
        "pool: padded by zeros",
        "models/vision/resnet.py",
        "constant_values=-jnp.inf",
        "constant_values=0.0",
        "models/vision/test_layers.py::test_maxima_are_those_of_every_three_by_three",
    ),
    Mutant(
        "model: scaled before it is centred",
        "models/vision/pixels.py",
        '(_pixels(edit("input", x), size) - center) / spread',
        '_pixels(edit("input", x), size) / spread - center',
        "recipes/test_controls.py",
    ),
    Mutant(
        "batches: what fills the last one keeps its labels",
        "data/order.py",
        "    y[real:] = filler(y)\n",
        "",
        "data/test_order.py",
    ),
    Mutant(
        "loss: rows that fill a batch are examples",
        "training/losses.py",
        "known = real(labels)\n    # A",
        "known = real(labels + 1)\n    # A",
        "training/test_losses.py::test_rows_that_fill_a_batch_have_no_influence_whatever_is_in_them",
    ),
    Mutant(
        "loss: divided by the batch's size, not by its real rows",
        "training/losses.py",
        "* weight).sum(), weight.sum()",
        "* weight).sum(), jnp.ones_like(weight).sum()",
        "training/test_losses.py::test_cross_entropy_is_the_mean_over_real_rows",
    ),
    Mutant(
        "fit: only the last batch of an epoch is counted for maps",
        "training/steps.py",
        "sums=jax.tree.map(jnp.add, state.sums, whole.sums),",
        "sums=whole.sums,",
        "training/test_loop.py::test_three_epochs_equal_a_loop_by_hand",
    ),
    Mutant(
        "cache: outer edits see what lies below, made of zeros",
        "training/caches.py",
        "return edit(name, x if name == site else value) if shown else value",
        "return edit(name, x if name == site else value)",
        "training/test_caches.py::test_outer_edits_see_what_the_cache_has_and_no_more",
    ),
    Mutant(
        "cache: other preprocessing is not noticed",
        "training/caches.py",
        "if not np.abs(new - old).max() <= near:",
        "if not near:",
        "training/test_caches.py::test_another_cache_is_refused_and_left_as_it_is",
    ),
    Mutant(
        "cache: other images are not noticed",
        "training/caches.py",
        '"data": digest(task),',
        '"data": task.name,',
        "training/test_caches.py::test_another_cache_is_refused_and_left_as_it_is",
    ),
    Mutant(
        "cache: a value that does not decide the answer alone is kept",
        "training/dependence.py",
        'if inside and not any("x" in seen.reads(name, site) for name in wanted):',
        "if inside:",
        "training/test_dependence.py::test_of_a_value_that_others_pass_by_the_one_before_is_kept",
    ),
    Mutant(
        "cache: augmented images are kept",
        "training/dependence.py",
        '{"first", "learnable", "key"})',
        '{"first", "learnable"})',
        "training/test_dependence.py::test_why_nothing_is_cached",
    ),
    Mutant(
        "cache: the first edit of the mapping is taken for the lowest",
        "training/dependence.py",
        "(site for site in seen.order if site in manipulations)",
        "(site for site in manipulations)",
        "training/test_dependence.py::test_the_value_below_the_lowest_edit",
    ),
    Mutant(
        "population: all members see the rows of the first",
        "training/members.py",
        "if run.together else run.seeds",
        "if run else run.seeds",
        "training/test_population.py::test_a_member_is_the_program_alone",
    ),
    Mutant(
        "population: settings reach no member",
        "training/members.py",
        "hyperparams={**node.hyperparams, **new}",
        "hyperparams={**node.hyperparams}",
        "training/test_population.py::test_a_member_is_the_program_alone",
    ),
    Mutant(
        "population: a member that diverged has an accuracy",
        "training/members.py",
        "        if not_finite(p.learnable)\n",
        "        if not p\n",
        "training/test_population.py::test_a_member_that_diverges_leaves_the_others_alone",
    ),
    Mutant(
        "population: memory is no limit",
        "training/population.py",
        'if held["vmap"] > memory * held["loop"]:',
        "if not memory:",
        "training/test_population.py::test_both_forms_are_measured_and_one_is_recommended",
    ),
    Mutant(
        "population: rows of a shared order enter once for each member",
        "training/members.py",
        "shared = together and all(",
        "shared = not together and all(",
        "training/test_population.py::test_heads_share_the_forward_below_them",
    ),
    Mutant(
        "several: every alignment draws from the same key",
        "alignments/heads.py",
        "m.init(fold(key, name), spec, inside(scope, name))",
        "m.init(key, spec, inside(scope, name))",
        "alignments/test_heads.py::test_alignments_of_one_kind_draw_by_name",
    ),
    Mutant(
        "compilation: arrays that are closed over are not compared",
        "training/compilation.py",
        "consts = tuple(map(_array, closed.consts))",
        "consts = len(closed.consts)",
        "training/test_compilation.py::test_functions_are_one_if_they_are_equal_in_everything",
    ),
    Mutant(
        "compilation: settings of an operation are not compared",
        "training/compilation.py",
        "what = eqn.primitive, eqn.ctx, _value(params, known)",
        "what = eqn.primitive, eqn.ctx, len(params)",
        "training/test_compilation.py::test_functions_are_one_if_they_are_equal_in_everything",
    ),
    Mutant(
        "compilation: executables are kept for ever",
        "training/compilation.py",
        "if len(_executables) > KEPT:",
        "if not _executables:",
        "training/test_compilation.py::test_no_more_executables_are_kept_than_said",
    ),
    Mutant(
        "hooks: how far params moved is the last update",
        "training/steps.py",
        "moved, state.start)",
        "moved, learnable)",
        "training/test_hooks.py::test_what_is_told_is_what_a_loop_by_hand_finds",
    ),
    Mutant(
        "hooks: a run that was ended goes on",
        "training/loop.py",
        "total = first if bool(state.stopped) else total",
        "total = max(first, total)",
        "training/test_hooks.py::test_a_run_that_was_ended_stays_ended",
    ),
    Mutant(
        "hooks: a step that is told again stands twice",
        "training/hooks.py",
        "_step(line, path) < first",
        "_step(line, path) <= first",
        "training/test_hooks.py::test_json_lines_of_a_resumed_run_are_those_of_a_whole_one",
    ),
    Mutant(
        "fit: counts of earlier epochs stay",
        "training/steps.py",
        "sums=jax.tree.map(jnp.zeros_like, state.sums),",
        "sums=state.sums,",
        "training/test_loop.py::test_three_epochs_equal_a_loop_by_hand",
    ),
    Mutant(
        "fit: the last of equally good epochs is selected",
        "training/steps.py",
        "1] >= score)",
        "1] > score)",
        "training/test_loop.py::test_the_first_of_the_best_epochs_is_selected",
    ),
    Mutant(
        "fit: an answer of NaN is class 0",
        "training/metrics.py",
        "y.argmax(-1), -2)",
        "y.argmax(-1), 0)",
        "training/test_checks.py::test_an_answer_of_nan_is_no_class",
    ),
    Mutant(
        "fit: accuracy over the rows that were filled up",
        "training/metrics.py",
        "column).sum(0), real.sum()",
        "column).sum(0), real.size",
        "training/test_loop.py::test_accuracy_is_of_the_real_rows",
    ),
    Mutant(
        "core: an outer program sees a value before it is edited",
        "core/program.py",
        "            return tapped(site, new)\n",
        "            return new\n",
        "core/test_program.py::test_the_order_of_events",
    ),
    Mutant(
        "core: parts draw by their order, not by their names",
        "core/program.py",
        "jax.random.fold_in(key, zlib.crc32(name.encode()))",
        "key",
        "core/test_program.py::test_keys_by_name",
    ),
    Mutant(
        "core: a module of one example under vmap is taken for one of a batch",
        "core/guards.py",
        "if before[:1] != (1,) and after",
        "if len(before) == 0 and after",
        "locations/test_linen.py::test_a_module_of_one_example_is_refused",
    ),
    Mutant(
        "core: a site that comes twice is edited twice in silence",
        "core/guards.py",
        'if reached.get(site) == now and not site.endswith("/raw"):',
        "if False:",
        "core/test_taps.py::test_a_site_that_comes_twice_is_refused",
    ),
    Mutant(
        "core: a forward's answer from before the edit is taken",
        "core/faults.py",
        "y is passage.given and y is not passage.got",
        "False",
        "core/test_border.py",
    ),
    Mutant(
        "core: an error of a part goes on without its site",
        "core/faults.py",
        'raise PartError(what, (f"{where} ({name_of(part)})",)) from error',
        "raise",
        "core/test_border.py",
    ),
    Mutant(
        "taps: given rows of another batch are broadcast",
        "core/taps.py",
        "if old != found or old_tree != tree:",
        "if old_tree != tree:",
        "core/test_taps.py::test_given_refuses_what_the_model_would_not_have_there",
    ),
    Mutant(
        "taxonomy: the one site of scanned layers is the embedding",
        "taxonomy/programs.py",
        'eqn.primitive.name in ("scan", "while")',
        'eqn.primitive.name in ("while",)',
        "taxonomy/test_describe.py::test_a_site_inside_a_loop_is_hidden_whatever_a_card_calls_it",
    ),
    Mutant(
        "contract: a class token for each row is called a copy",
        "testing/laws.py",
        "programs = distinct(",
        "programs = programs or distinct(",
        "testing/test_testing.py::test_law_5_a_class_token_for_each_row_is_no_copy",
    ),
    Mutant(
        "nnx: batch norm on the batch's own statistics",
        "locations/nnx.py",
        '{"deterministic": True, "use_running_average": True}',
        '{"deterministic": True}',
        "locations/test_nnx.py",
    ),
    Mutant(
        "nnx: what one pass traced serves the next",
        "locations/nnx.py",
        "eq=False)\nclass _Tap:",
        "eq=False)\nclass _Tap:\n"
        "    __eq__ = lambda self, other: True\n    __hash__ = lambda self: 0\n",
        "locations/test_nnx.py",
    ),
    Mutant(
        "equinox: dropout as in training",
        "locations/equinox.py",
        "eqx.nn.inference_mode((module, state))",
        "(module, state)",
        "locations/test_equinox.py",
    ),
    Mutant(
        "equinox: an edit inside scan serves one example",
        "locations/equinox.py",
        "self.edit(site, one) is not one:",
        "self.edit(site, one) is None:",
        "locations/test_equinox.py",
    ),
    Mutant(
        "haiku: a stack's layers have the names of those outside",
        "locations/haiku.py",
        "return self._prefix(name, params) + name",
        "return name",
        "locations/test_haiku.py",
    ),
    Mutant(
        "keras: a pass leaves its taps in the model",
        "locations/keras.py",
        "with lock, _replaced(layers, taps), library",
        "with lock, library",
        "locations/test_keras.py",
    ),
    Mutant(
        "visits: a scanned body's second trace is numbered on",
        "locations/visits.py",
        "if trace == here:",
        "if trace is not None:",
        "locations/test_linen.py",
    ),
    Mutant(
        "lazy: batches read ahead start at step 0",
        "data/order.py",
        "MapDataset.range(first, total)",
        "MapDataset.range(total - first)",
        "data/test_lazy.py",
    ),
    Mutant(
        "lazy: everything is read ahead",
        "data/order.py",
        "prefetch_buffer_size=AHEAD",
        "prefetch_buffer_size=500",
        "data/test_lazy.py",
    ),
    Mutant(
        "lazy: the digest does not look into files",
        "data/lazy.py",
        "{path.name} {size} {tail}",
        "{path.name} {size}",
        "data/test_lazy.py",
    ),
    Mutant(
        "lazy: other rows than those drawn",
        "data/lazy.py",
        "self._sources, self._where[rows],",
        "self._sources, self._where[: len(rows)],",
        "data/test_lazy.py",
    ),
    Mutant(
        "images: a linked folder is not followed",
        "data/folder.py",
        "if entry.is_dir():",
        "if entry.is_dir(follow_symlinks=False):",
        "data/test_folder.py::test_linked_folders_are_followed_without_circles",
    ),
    Mutant(
        "images: files of one size count as equal",
        "data/lazy.py",
        "(size_of, _tail, _sha256)",
        "(size_of,)",
        "data/test_lazy.py::test_a_lazy_folder_is_the_folder",
    ),
    Mutant(
        "images: deep grey is cut at 255",
        "data/pixels.py",
        "(grey // 257)",
        "np.minimum(grey, 255)",
        "data/test_folder.py::test_deep_grey_is_scaled_by_one_rule",
    ),
    Mutant(
        "images: an equal one stays in training beside the test split",
        "data/splits.py",
        "for part in reversed(SPLITS):",
        "for part in SPLITS:",
        "data/test_splits.py::test_of_equal_images_the_test_split_keeps_its_own",
    ),
    Mutant(
        "zeroth order: a sphere without its dimension",
        ZEROTH,
        "(u.size if scale is None else scale) * u",
        "u",
        "searches/test_zeroth_order.py",
    ),
    Mutant(
        "zeroth order: two sides over one radius",
        ZEROTH,
        "values.mean(), sides * distance(state)",
        "values.mean(), distance(state)",
        "searches/test_zeroth_order.py",
    ),
    Mutant(
        "zeroth order: segmented directions as if they were signs",
        ZEROTH,
        "lambda u: 1 / u)",
        "jnp.sign)",
        "searches/test_zeroth_order.py",
    ),
    Mutant(
        "zeroth order: the momentum of a heavy ball",
        ZEROTH,
        "momentum, nesterov=True)",
        "momentum)",
        "searches/test_zeroth_order.py::test_gradient_correction_looks_ahead",
    ),
    Mutant(
        "evolution: ranks favour the first of equals",
        "searches/evolution.py",
        "(below + equal / 2)",
        "values.argsort().argsort()",
        "searches/test_evolution.py",
    ),
    Mutant(
        "evolution: CMA-ES changes a state that was handed out",
        "searches/evolution.py",
        "cma = copy.deepcopy(state.cma)\n        flat",
        "cma = state.cma\n        flat",
        "searches/test_evolution.py::test_cma_es_is_pure",
    ),
    Mutant(
        "oracle: a request that passes the budget is cut to it, and paid",
        ORACLE,
        "        if len(todo) > self.budget - self.paid:",
        "        todo = todo[: max(self.budget - self.paid, 1)]\n        if not todo:",
        "searches/test_oracle.py::test_the_budget_is_met_exactly_and_never_passed",
    ),
    Mutant(
        "oracle: equal images of a noisy model are asked once",
        ORACLE,
        "keys = digests if self.oracle.deterministic else list(numbers)",
        "keys = digests",
        "searches/test_oracle.py",
    ),
    Mutant(
        "oracle: good answers are lost with a bad one",
        ORACLE,
        "        if self._log is not None:\n            self._log.append(request)",
        "        if self._log is not None and fine.all():\n"
        "            self._log.append(request)",
        "searches/test_oracle.py::test_nan_is_named_paid_and_asked_again_alone",
    ),
    Mutant(
        "oracle: a key is the same after a bad answer",
        ORACLE,
        'f"{self._identity} {self.paid} {numbers}"',
        'f"{self._identity} {numbers}"',
        "searches/test_oracle.py",
    ),
    Mutant(
        "oracle: a key is the same for other images",
        ORACLE,
        ' + b"".join(digests)\n',
        "\n",
        "searches/test_oracle.py",
    ),
    Mutant(
        "replay: a disk that is full at the start keeps the lock",
        "saving/log.py",
        "except (OSError, ValueError):",
        "except ValueError:",
        "searches/test_oracle.py",
    ),
    Mutant(
        "replay: damage in the middle is cut off with what is behind",
        "saving/log.py",
        "                if MAGIC in data[at + 1 :]:",
        "                if False:",
        "searches/test_oracle.py::test_a_flipped_bit_is_no_torn_tail",
    ),
    Mutant(
        "replay: a second writer",
        "saving/log.py",
        "fcntl.LOCK_EX | fcntl.LOCK_NB",
        "fcntl.LOCK_SH | fcntl.LOCK_NB",
        "searches/test_oracle.py::test_two_runs_on_one_log",
    ),
    Mutant(
        "black box: rows that fill a batch are sent",
        "training/black_box.py",
        "rows = len(jax.tree.leaves(points.learnable)[0]), int((y >= 0).sum())",
        "rows = len(jax.tree.leaves(points.learnable)[0]), len(y)",
        "training/test_black_box.py::test_what_is_sent",
    ),
    Mutant(
        "black box: validation is not reserved",
        "training/black_box.py",
        "left = account.left - held * (checks - passed)",
        "left = account.left",
        "training/test_black_box.py::test_the_budget_is_met_exactly",
    ),
    Mutant(
        "black box: maps count every point as a set of its own",
        "training/black_box.py",
        "jax.tree.map(lambda a: a.mean(0), sums)",
        "jax.tree.map(lambda a: a.sum(0), sums)",
        "training/test_black_box.py::test_three_epochs_equal_a_loop_on_the_model_itself",
    ),
    Mutant(
        "black box: what is sent is not clipped",
        "training/black_box.py",
        "jnp.clip(x * spread + center, 0, 1)",
        "x * spread + center",
        "training/test_black_box.py::test_what_is_sent",
    ),
    Mutant(
        "bar: the mean of logits",
        "alignments/statistical.py",
        "jax.nn.softmax(y) @ params.fixed.astype(y.dtype)",
        "jax.nn.softmax(y @ params.fixed.astype(y.dtype))",
        "recipes/test_black_box_reprogramming.py",
    ),
    Mutant(
        "bar: the rate falls every epoch",
        "recipes/method.py",
        "2 * steps, 0.96",
        "steps, 0.96",
        "recipes/test_black_box_reprogramming.py",
    ),
    Mutant(
        "preset: stairs of one length for every epoch",
        "recipes/method.py",
        "int(0.5 * epochs) * steps",
        "int(0.5 * epochs) * 2",
        "recipes/test_method.py",
    ),
    Mutant(
        "bar: focal without its power",
        BAR,
        "((1 - jnp.exp(log)) ** power)",
        "(1 - jnp.exp(log))",
        "recipes/test_black_box_reprogramming.py",
    ),
    Mutant(
        "blackvip: no clip",
        VIP,
        "jnp.clip(x + prompt.astype(x.dtype), low, high)",
        "x + prompt.astype(x.dtype)",
        "recipes/test_black_box_visual_prompting.py",
    ),
    Mutant(
        "blackvip: the trigger in front of the features",
        VIP,
        "jnp.concatenate([features, both], 1)",
        "jnp.concatenate([both, features], 1)",
        "recipes/test_black_box_visual_prompting.py",
    ),
    Mutant(
        "blackvip: doublings that mix their pixels",
        VIP,
        '"bhwc,ijcm->bhiwjcm"',
        '"bhwc,ijcm->bihjwcm"',
        "recipes/test_black_box_visual_prompting.py",
    ),
    Mutant(
        "accumulation: a mean of the parts' means",
        "training/gradients.py",
        "        return total, rest\n",
        "        return total / rest[0], [rest[0] / rest[0], rest[1]]\n",
        "training/test_parallel.py::test_accumulation_is_the_whole_batch",
    ),
    Mutant(
        "parallel: what fills a batch keeps its label",
        "training/parallel.py",
        "constant_values=filler(y)",
        "constant_values=0",
        "training/test_parallel.py::test_accumulation_is_the_whole_batch",
    ),
    Mutant(
        "parallel: a part takes the rows of one device",
        "training/parallel.py",
        "jnp.moveaxis(a.reshape(-1, count, *a.shape[1:]), 1, 0)",
        "a.reshape(count, -1, *a.shape[1:])",
        "training/test_parallel.py::test_a_part_takes_rows_of_every_device",
    ),
    Mutant(
        "parallel: the last rule that fits decides",
        "training/parallel.py",
        "for rule in rules if fnmatchcase",
        "for rule in [*rules][::-1] if fnmatchcase",
        "training/test_parallel.py::test_the_first_rule_that_fits_decides",
    ),
    Mutant(
        "parallel: integers are cast too",
        "training/parallel.py",
        "if not jnp.issubdtype(part.dtype, jnp.floating):",
        "if False:",
        "training/test_parallel.py::test_a_file_lies_as_its_rules_say",
    ),
    Mutant(
        "parallel: weights of another mesh are taken",
        "training/parallel.py",
        'if same and getattr(there, "mesh", mesh) == mesh:',
        "if same:",
        "training/test_parallel.py::test_frozen_weights_on_another_mesh_are_refused",
    ),
    Mutant(
        "text: equal requests are paid again",
        "text/procedure.py",
        "list(dict.fromkeys(questions))",
        "list(questions)",
        "text/test_procedure.py",
    ),
    Mutant(
        "text: greedy requests are told apart by their seeds",
        "text/procedure.py",
        "return request._replace(seed=0, top_k=0, top_p=1.0)",
        "return request",
        "text/test_procedure.py",
    ),
    Mutant(
        "text: an answer that was cut is read",
        "text/answers.py",
        'if completion.finish != "stop":',
        'if completion.finish == "refused":',
        "text/test_answers.py",
    ),
    Mutant(
        "text: completions with a fault vote",
        "text/answers.py",
        "_commonest([v.value for v in votes if not v.fault])",
        "_commonest([v.value for v in votes])",
        "text/test_answers.py",
    ),
    Mutant(
        "text: a fault is left out of the score's number",
        "text/answers.py",
        "return Score(len(gold), correct",
        "return Score(sum(not a.fault for a in answers), correct",
        "text/test_answers.py",
    ),
    Mutant(
        "text: the last number behind a marker, not the first",
        "text/answers.py",
        'at = -1 if which == "last" and after is None else 0',
        'at = -1 if which == "last" else 0',
        "text/test_answers.py",
    ),
    Mutant(
        "text: the budget forgets the query",
        "text/parts.py",
        'front + "".join(kept) + behind',
        '"".join(kept)',
        "text/test_parts.py",
    ),
    Mutant(
        "text: what stands next to the query is left out first",
        "text/parts.py",
        'kept[1:] if drop == "first" else kept[:-1]',
        'kept[:-1] if drop == "first" else kept[1:]',
        "text/test_parts.py",
    ),
    Mutant(
        "text: a label is tokenised by itself, not behind its prompt",
        "text/labels.py",
        "found.append(whole[len(start) :])",
        "found.append(tuple(encode(label)))",
        "text/test_labels.py",
    ),
    Mutant(
        "kate: the nearest stands first",
        "text/rows.py",
        "order[:, ::-1] if last else order",
        "order",
        "text/test_rows.py",
    ),
    Mutant(
        "kate: nearest by the dot product",
        "text/rows.py",
        "return found / np.maximum(length, 1e-12)",
        "return found",
        "text/test_rows.py",
    ),
    Mutant(
        "kate: over a budget the nearest is left out",
        "recipes/prompt_instruction/in_context.py",
        'drop="first" if last else "last"',
        'drop="last" if last else "first"',
        "recipes/test_prompt_instruction.py::test_over_a_budget_kate_leaves_the_farthest_out",
    ),
    Mutant(
        "calibration: the estimate is added",
        "alignments/statistical.py",
        "return y - (strength",
        "return y + (strength",
        "alignments/test_calibration.py",
    ),
    Mutant(
        "calibration: rows that fill a batch count",
        "alignments/statistical.py",
        "jnp.where(labels[:, None] >= 0, p, 0).sum(0)",
        "p.sum(0)",
        "alignments/test_calibration.py",
    ),
    Mutant(
        "calibration: each input without content is made to sum to one first",
        "recipes/prompt_instruction/calibration.py",
        "[_pooled(seen)] if seen else []",
        "seen",
        "recipes/test_prompt_instruction.py::"
        "test_contextual_calibration_takes_the_mean_first",
    ),
    Mutant(
        "calibration: rows weigh alike in the published mean too",
        "alignments/statistical.py",
        "jax.nn.softmax(y) if normalised else jnp.exp(y)",
        "jax.nn.softmax(y)",
        "alignments/test_calibration.py",
    ),
    Mutant(
        "zero-shot chain of thought: the answer does not see the reasons",
        "text/dialogues.py",
        "prompt + reasons",
        "prompt",
        "recipes/test_prompt_instruction.py",
    ),
    Mutant(
        "benchmarks: the program is shown the right answer",
        "recipes/prompt_instruction/benchmarks.py",
        'if k not in ("answer", "steps")',
        "if k",
        "recipes/test_benchmarks.py::test_a_program_cannot_see_the_right_answer",
    ),
    Mutant(
        "texts: one stands in two splits",
        "data/text.py",
        'part in ("test", first_part) and (',
        "part and (",
        "data/test_data_text.py::test_no_text_stands_in_two_splits",
    ),
    Mutant(
        "endpoint: an answer is used and not written down",
        "text/served/server.py",
        "self._log.write(packed(one, answer))",
        "pass",
        "text/test_served.py::test_a_replay_asks_in_any_order_and_needs_no_server",
    ),
    Mutant(
        "endpoint: an answer that cannot be read is not counted",
        "text/served/server.py",
        "try:\n            answer = read(data)\n        finally:",
        "answer = read(data)\n        if True:",
        "text/test_served.py::test_malformed_answers_are_named_paid_and_not_used",
    ),
    Mutant(
        "endpoint: other requests go on after one failed",
        "text/served/server.py",
        "if not failed:",
        "if True:",
        "text/test_served.py::test_what_stays_wrong_ends_the_run_and_nothing_is_lost",
    ),
    Mutant(
        "endpoint: parts of a request draw the same samples",
        "text/served/server.py",
        ", {len(parts)}",
        "",
        "text/test_served.py::test_samples_come_in_parts_where_a_server_gives_fewer",
    ),
    Mutant(
        "endpoint: the environment's key is sent to any server",
        "text/served/connection.py",
        "if url is None:\n        key",
        "if key is None:\n        key",
        "text/test_served.py::test_the_environments_key_is_not_sent_to_another_server",
    ),
    Mutant(
        "endpoint: a timeout is of the next byte",
        "text/served/connection.py",
        "async with asyncio.timeout(seconds):",
        "if True:",
        "text/test_served.py::test_a_timeout_is_of_the_whole_attempt",
    ),
    Mutant(
        "endpoint: the printed beginning of a text is in the way",
        "text/served/scoring.py",
        "fronts = tokens[:start], tokens[1:start]",
        "fronts = (tokens[:start],)",
        "text/test_served_scores.py::test_echoed_tokens_of_a_label",
    ),
    Mutant(
        "endpoint: a part of a character stands for any text",
        "text/served/scoring.py",
        "if own and min(own) > ",
        "if own or ",
        "text/test_served_scores.py::test_parts_of_a_character_hide_nothing_else",
    ),
    Mutant(
        "endpoint: what is not listed is as likely as can be",
        "text/served/scoring.py",
        "Scored(most, 1",
        "Scored(0.0, 1",
        "text/test_served_scores.py::test_a_label_that_is_not_listed_gets_a_bound_that_is_said",
    ),
    Mutant(
        "language: a query sees what has a lower index",
        LAYERS,
        "back = position[:, :, None] - kv.position[:, None, :]",
        "i, j = position.shape[1], kv.position.shape[1]\n        "
        "back = (jnp.arange(i)[:, None] - jnp.arange(j) + j - i)[None]",
        "models/language/test_language_layers.py",
    ),
    Mutant(
        "language: bfloat16's slopes are summed in bfloat16",
        LAYERS,
        "by_x = _summed(g, kernel, range(len(rows), g.ndim), others)",
        "by_x = jnp.tensordot(g, kernel, (tuple(range(len(rows), g.ndim)), others))",
        "models/language/test_language_layers.py",
    ),
    Mutant(
        "language: a group's queries ask another group's keys",
        LAYERS,
        "*own[1:3], size).transpose(0, 2, 3, 1, 4)",
        "own[2], own[1], size).transpose(0, 3, 2, 1, 4)",
        "models/language/test_language_layers.py",
    ),
    Mutant(
        "language: an id beyond the table is its neighbour",
        LAYERS,
        "rows_of(self.embedding, ids)",
        "self.embedding[ids]",
        "models/language/test_language_layers.py",
    ),
    Mutant(
        "language: the id -1 is the last word",
        LAYERS,
        ", wrap_negative_indices=False",
        "",
        "models/language/test_language_layers.py",
    ),
    Mutant(
        "language: GGUF's rotated pairs are left as neighbours",
        "models/language/llama.py",
        'Family("Llama, GGUF names", plan, GGUF, in_halves, Settings)',
        'Family("Llama, GGUF names", plan, GGUF, settings=Settings)',
        "models/language/test_gguf_files.py",
    ),
    Mutant(
        "language: GPT-2's kernels as torch's linear ones",
        "models/language/gpt2.py",
        "name: t.T if re.search",
        "name: t if re.search",
        "models/language/test_language_load.py::test_the_card",
    ),
    Mutant(
        "models: settings that nobody reads are passed over",
        "models/settings.py",
        "    if other:",
        "    if False:",
        "models/test_settings.py",
    ),
    Mutant(
        "models: weights that are not finite are taken",
        "models/stored.py",
        "np.isfinite(tensor.astype(np.float32)).sum()",
        "tensor.size",
        "models/test_settings.py",
    ),
    Mutant(
        "models: a bare file of a family of many is taken for the plain one",
        "models/vision/catalogue.py",
        "if kind is None and layout.example:",
        "if kind is False:",
        "models/test_settings.py",
    ),
    Mutant(
        "language: a head of its own is passed over in a tied model",
        "models/language/family.py",
        "if own is not None and not np.array_equal(own, other):",
        "if False:",
        "models/language/test_language_settings.py",
    ),
    Mutant(
        "language: EOS stands behind a causal model's prompt",
        "models/language/tokenizer.py",
        "behind = 0 if ends else _behind_text(rust)",
        "behind = 0",
        "models/language/test_tokenizer.py",
    ),
    Mutant(
        "language: a tokeniser cuts what is long in silence",
        "models/language/tokenizer.py",
        "rust.no_truncation()",
        "rust.no_padding()",
        "models/language/test_tokenizer.py",
    ),
    Mutant(
        "engine: all layers write at one slot",
        READING,
        "start = slots[site]",
        "start = min(slots.items())[1]",
        "decoding/test_decoding.py::test_decoding_is_recomputation[rotary-hidden]",
    ),
    Mutant(
        "engine: words stand behind the padding",
        WRITING,
        "repeat(last_position(x) + 1, samples),",
        "repeat(last_position(x) * 0 + x.weight.shape[1], samples),",
        "decoding/test_decoding.py::test_decoding_is_recomputation[rotary-soft prompt]",
    ),
    Mutant(
        "engine: a query behind a head gets the prompt again",
        READING,
        "x = x._replace(span=TAIL)",
        "x = x._replace(span=WHOLE)",
        "decoding/test_decoding.py::test_what_queries_begin_with_is_read_once",
    ),
    Mutant(
        "engine: the samples of a row share its key",
        WRITING,
        "return fold(keys, jnp.arange(samples)).reshape(-1)",
        "return fold(keys, jnp.zeros(samples, int)).reshape(-1)",
        "decoding/test_decoding.py::test_keys_are_by_row_and_sample",
    ),
    Mutant(
        "engine: top-p leaves out the word that reaches p",
        SAMPLING,
        "kept = jnp.cumsum(mass) - mass < top_p",
        "kept = jnp.cumsum(mass) < top_p",
        "decoding/test_decoding.py::test_what_is_drawn_from",
    ),
    Mutant(
        "engine: what is written stays greedy where one row is",
        SAMPLING,
        "jax.lax.cond(warm.any(), drawn, lambda: best)",
        "jax.lax.cond(warm.all(), lambda: best, lambda: best)",
        "decoding/test_decoding.py::test_draws_are_as_often_as_likely",
    ),
    Mutant(
        "prefix: each new word brings it again",
        "operators/concatenative.py",
        "if isinstance(value, Tokens) and not value.span.first:",
        "if False:",
        "decoding/test_decoding.py::"
        "test_decoding_is_recomputation[rotary-one prefix for all]",
    ),
    Mutant(
        "local: a query behind a beginning starts at 0",
        "text/in_process.py",
        "tokens(x.value, x.weight, start=len(ids))",
        "tokens(x.value, x.weight, start=0)",
        "text/test_in_process.py::test_greedy_answers_are_recomputations",
    ),
    Mutant(
        "local: randomness by the place in a batch",
        "text/in_process.py",
        "fold(jax.random.key(r.seed), r.prompt) for r in requests",
        "fold(jax.random.key(r.seed), str(i)) for i, r in enumerate(requests)",
        "text/test_in_process.py::test_answers_hang_on_prompt_and_seed_alone",
    ),
    Mutant(
        "local: a stop string stays in the answer",
        "text/in_process.py",
        "text[: min(places)] if places else text",
        "text",
        "text/test_in_process.py::test_stop_strings_end_answers_and_are_not_in_them",
    ),
    Mutant(
        "prompt tuning: behind the text",
        SOFT,
        "insert(start, length)",
        "insert(start, length, at=None)",
        "recipes/test_soft_prompts.py",
    ),
    Mutant(
        "prompt tuning: label words at the last index, padding or not",
        "alignments/rule.py",
        "chain(last=last(),",
        "chain(last=__import__('reprojax').stateless(lambda y: y.value[:, -1]),",
        "recipes/test_soft_prompts.py",
    ),
    Mutant(
        "prompt tuning: a label's first token for its mean",
        SOFT,
        ".mean(0)",
        "[0]",
        "recipes/test_soft_prompts.py",
    ),
    Mutant(
        "prompt tuning: words drawn with repetition",
        SOFT,
        "shape[0] > len(table)",
        "True",
        "recipes/test_soft_prompts.py",
    ),
    Mutant(
        "prefix tuning: the text keeps its positions",
        PREFIX,
        "x._replace(position=x.position + length)",
        "x",
        "recipes/test_prefixes.py",
    ),
    Mutant(
        "prefix tuning: values for keys",
        PREFIX,
        "seen[site].value]",
        "seen[site].value[::-1]]",
        "recipes/test_prefixes.py",
    ),
    Mutant(
        "prefix tuning: tokens and layers mixed up",
        PREFIX,
        "return rows.swapaxes(0, 1)",
        "return rows.reshape(-1, len(rows), *rows.shape[2:])",
        "recipes/test_prefixes.py",
    ),
    Mutant(
        "prefix tuning: an MLP without its tanh",
        PREFIX,
        "return jnp.tanh(net",
        "return (net",
        "recipes/test_prefixes.py",
    ),
    Mutant(
        "prefix tuning: a start that the drawn bias moves",
        PREFIX,
        '"bias": jnp.zeros((n, heads, size))',
        '"bias": net["second"]["bias"]',
        "recipes/test_prefixes.py",
    ),
    Mutant(
        "p-tuning v2: the head reads the first index, padding or not",
        PT2,
        "jnp.where(value.weight > 0, value.position, far).argmin(1)",
        "jnp.zeros(len(value.weight), int)",
        "recipes/test_p_tuning_v2.py::"
        "test_of_an_encoder_the_head_reads_the_first_token",
    ),
    Mutant(
        "p-tuning v2: an encoder's head reads the last token",
        PT2,
        'if model.input.kind == "causal" else stateless(first_value)',
        "if True else stateless(first_value)",
        "recipes/test_p_tuning_v2.py::"
        "test_of_an_encoder_the_head_reads_the_first_token",
    ),
    Mutant(
        "p-tuning v2: the text begins before the prefix ends",
        PT2,
        "room(length, model.input.positions)",
        "room(0, model.input.positions)",
        "recipes/test_p_tuning_v2.py::"
        "test_of_an_encoder_the_head_reads_the_first_token",
    ),
    Mutant(
        "p-tuning v2: no dropout of the prefix",
        PT2,
        "prefix(_dropped(made, drop), length)",
        "prefix(made, length)",
        "recipes/test_p_tuning_v2.py::test_dropout_is_for_training_alone",
    ),
    Mutant(
        "steering: a block too late",
        STEER,
        "    return places[layer]",
        "    return [*places, 'head:in'][layer + 1]",
        "recipes/test_activation_addition.py::"
        "test_it_is_added_to_the_first_words_or_to_all",
    ),
    Mutant(
        "checks: a map of classes is taken for a task that has none",
        "training/checks.py",
        'if task.answers in ("labels", "numbers", "none"):\n        _check_no_counts',
        'if task.answers == "words":\n        _check_no_counts',
        "training/test_answers_of_a_task.py::"
        "test_a_map_that_counts_classes_is_refused_where_there_are_none",
    ),
    Mutant(
        "steering: a contrast of what enters the block",
        STEER,
        "_place(model, layer, outputs(model))",
        'model.roles["blocks"][layer]',
        "recipes/test_activation_addition.py::"
        "test_a_contrast_is_the_difference_of_means_at_the_last_words",
    ),
    Mutant(
        "steering: the mean over all words",
        STEER,
        "last_value(look(x)).astype",
        "look(x).value.mean(1).astype",
        "recipes/test_activation_addition.py::"
        "test_a_contrast_is_the_difference_of_means_at_the_last_words",
    ),
    Mutant(
        "steering: what is written is not steered",
        STEER,
        "jnp.full(chosen.shape, not value.span.first)",
        "jnp.full(chosen.shape, False)",
        "recipes/test_activation_addition.py::test_the_answer_alone_may_be_steered",
    ),
    Mutant(
        "steering: the text is steered too, behind a beginning that was read before",
        STEER,
        "        if not value.span.last:",
        "        chosen |= not value.span.first\n        if not value.span.last:",
        "recipes/test_activation_addition.py::test_the_answer_alone_may_be_steered",
    ),
    Mutant(
        "dept: the prompt is moved too",
        DEPT,
        "chain(words=add(low_rank(rank), places), prompt=insert(start, length))",
        "chain(prompt=insert(start, length), words=add(low_rank(rank), places))",
        "recipes/test_decomposed_prompt_tuning.py::"
        "test_it_is_a_short_prompt_and_rows_by_place",
    ),
    Mutant(
        "dept: one rate for all",
        DEPT,
        "adamw(learning_rate / 60)",
        "adamw(learning_rate)",
        "recipes/test_decomposed_prompt_tuning.py::test_there_are_two_rates",
    ),
    Mutant(
        "dept: A B without its factor",
        DEPT,
        "8 / rank**0.5",
        "1.0",
        "recipes/test_decomposed_prompt_tuning.py::"
        "test_it_is_a_short_prompt_and_rows_by_place",
    ),
    Mutant(
        "bbt: a scale without the search's own step",
        BBT,
        "_deviation(model, deviation) / sigma",
        "_deviation(model, deviation)",
        "recipes/test_black_box_tuning.py::test_the_projections_scale_is_that_of_words",
    ),
    Mutant(
        "bbt: the variance for the deviation",
        BBT,
        "range(model.input.vocabulary)).std()",
        "range(model.input.vocabulary)).var()",
        "recipes/test_black_box_tuning.py::test_the_projections_scale_is_that_of_words",
    ),
    Mutant(
        "bbt: an encoder's prompt stands before [CLS]",
        BBT,
        'at = 0 if model.input.kind == "causal" else 1',
        "at = 0",
        "recipes/test_black_box_tuning.py::"
        "test_the_prompt_is_words_and_what_is_added_to_them",
    ),
    Mutant(
        "bbt: added in front of an encoder's norm",
        "models/language/card.py",
        """    if language.input.kind == "causal":
        return role""",
        """    if True:
        return role""",
        "recipes/test_black_box_tuning.py::"
        "test_the_prompt_is_words_and_what_is_added_to_them",
    ),
    Mutant(
        "bbt: the worst of the last points for the best",
        "searches/evolution.py",
        "rows[values.argmin()]",
        "rows[values.argmax()]",
        "searches/test_evolution.py::"
        "test_the_result_may_be_the_best_point_that_was_asked",
    ),
    Mutant(
        "bbt: the hinge counts the right class",
        BBT,
        "(jnp.maximum(above, 0) * wrong)",
        "jnp.maximum(above, 0)",
        "recipes/test_black_box_tuning.py::test_the_hinge_by_hand",
    ),
    Mutant(
        "black box: a text's digest without its numbers",
        ORACLE,
        "for leaf in jax.tree.leaves(images):",
        "for leaf in jax.tree.leaves(images)[:1]:",
        "recipes/test_black_box_tuning.py::"
        "test_equal_texts_are_paid_once_if_their_numbers_are_equal",
    ),
    Mutant(
        "loreft: rows that are not orthonormal",
        REFT,
        'orthonormal(net["basis"])',
        'net["basis"]',
        "recipes/test_hidden_edits.py",
    ),
    Mutant(
        "loreft: words that are written are edited too",
        REFT,
        "real & (place < first) & value.span.first",
        "real & (place < first)",
        "recipes/test_hidden_edits.py",
    ),
    Mutant(
        "loreft: the last tokens by index, padding or not",
        REFT,
        "place >= length - jnp.minimum(half, last)",
        "place >= place.shape[1] - jnp.minimum(half, last)",
        "recipes/test_hidden_edits.py",
    ),
    Mutant(
        "loreft: a basis that Adam hardly turns",
        REFT,
        "orthonormal(jax.random.normal(k[0], (width, rank)))",
        "jax.random.normal(k[0], (width, rank))",
        "recipes/test_hidden_edits.py",
    ),
    Mutant(
        "loreft: the middle of a short prompt is edited",
        REFT,
        "half = length // 2",
        "half = length",
        "recipes/test_hidden_edits.py",
    ),
    Mutant(
        "loreft: the sign of a column is that of LAPACK",
        REFT,
        "jnp.where(jnp.diagonal(triangle) < 0, -1.0, 1.0)",
        "1.0",
        "recipes/test_hidden_edits.py",
    ),
    Mutant(
        "loreft: the edit is R^T (W h + b), without what it replaces",
        REFT,
        "(target - h @ rows)",
        "target",
        "recipes/test_hidden_edits.py::"
        "test_an_edit_sets_one_subspace_and_leaves_the_rest",
    ),
    Mutant(
        "prompt tuning: large prompts move further",
        SOFT,
        "multiply_by_parameter_scale=False",
        "multiply_by_parameter_scale=True",
        "recipes/test_soft_prompts.py::test_adafactor_is_that_by_hand",
    ),
    Mutant(
        "prefix tuning: the rate is zero after one epoch",
        PREFIX,
        "0.0, steps * epochs)",
        "0.0, steps)",
        "recipes/test_prefixes.py::test_adamw_linear_falls_to_zero_at_the_last_step",
    ),
    Mutant(
        "written: targets that stand at their own places",
        "text/tasks.py",
        "np.where(real[:, 1:], ids[:, 1:], -1)",
        "np.where(real[:, :-1], ids[:, :-1], -1)",
        "text/test_text_tasks.py",
    ),
    Mutant(
        "written: the question is to be written too",
        "text/tasks.py",
        "first = np.asarray(starts) - 1",
        "first = 0 * np.asarray(starts)",
        "text/test_text_tasks.py",
    ),
    Mutant(
        "fit: a short batch's filling has labels where words are written",
        "data/order.py",
        "    y[real:] = filler(y)\n",
        "    y[real:, ...] = y[real:]\n",
        "training/test_parallel.py",
    ),
    Mutant(
        "prompts: a number that there is not is its neighbour",
        "core/many.py",
        'mode="fill", wrap_negative_indices=False',
        'mode="clip"',
        "test_prompts.py::test_a_wrong_number_is_refused_or_no_number",
    ),
    Mutant(
        "prompts: the first row's number for all",
        "core/many.py",
        "lambda a: _rows_of(a, index), params",
        "lambda a: _rows_of(a, 0 * index + index[0]), params",
        "test_prompts.py::test_a_stacked_batch_is_the_separate_batches[soft-rotary]",
    ),
    Mutant(
        "prompts: a path that misses its second end",
        "core/many.py",
        "(1 - s) * x + s * y",
        "x + s * (y - x)",
        "test_prompts.py::test_a_path_has_its_ends_and_is_straight",
    ),
    Mutant(
        "prompts: long words are near to everything",
        "models/language/words.py",
        "(_unit(a) for a in (table, own))",
        "(a for a in (table, own))",
        "test_prompts.py::test_the_order_is_that_by_hand",
    ),
    Mutant(
        "storage: a backbone is known by its name",
        "saving/programs.py",
        "came == card.fingerprint",
        "name == card.backbone",
        "saving/test_saved_programs.py::test_another_backbone_is_refused",
    ),
    Mutant(
        "storage: label words in another order",
        "recipes/registry.py",
        "label_words(labels)",
        "label_words(sorted(labels))",
        "saving/test_saved_programs.py::test_a_prompt_answers_the_same_from_its_file",
    ),
    Mutant(
        "centred: rows that fill a batch are in the mean",
        CENTRED,
        "real @ y.astype(jnp.float32)",
        "y.astype(jnp.float32).sum(0)",
        "alignments/test_centring.py::test_sums_of_uneven_batches_add_up_and_filled_rows_are_none",
    ),
    Mutant(
        "centred: the map counts what is centred",
        CENTRED,
        "count(inner(params), y, labels)",
        'count(inner(params), y - params.fixed["mean"], labels)',
        "alignments/test_centring.py::test_the_mean_goes_off_before_the_map_of_the_answers_as_they_came",
    ),
    Mutant(
        "masked: the mask's place as if no prompt stood in front",
        "alignments/rule.py",
        "hit.argmax(1) + value.weight.shape[1] - hit.shape[1]",
        "hit.argmax(1)",
        "alignments/test_masked.py::test_the_token_at_the_mask",
    ),
    Mutant(
        "one word: a masked model answers at its end",
        WORDS,
        "place = at_mask(model.input.special.mask)",
        "place = stateless(last_token)",
        "recipes/test_vocabulary_maps.py::test_a_masked_model_answers_at_its_mask",
    ),
    Mutant(
        "remapping: the letters beside a letter in reverse",
        REMAP,
        "_beside(x, i - reach)",
        "_beside(x, reach - i)",
        "recipes/test_vocabulary_remapping.py::test_evaluation_is_the_bare_model_on_true_words",
    ),
    Mutant(
        "remapping: padding counts as a letter",
        REMAP,
        " & (x.weight > 0)[:, None, :]",
        "",
        "recipes/test_vocabulary_remapping.py::test_evaluation_is_the_bare_model_on_true_words",
    ),
    Mutant(
        "remapping: it never cools",
        REMAP,
        "jnp.minimum(step / steps, 1)",
        "0 * jnp.minimum(step / steps, 1)",
        "recipes/test_vocabulary_remapping.py::test_training_mixes_the_table_by_a_gumbel_softmax_that_cools",
    ),
    Mutant(
        "taxonomy: of several prompts the first alone has a cell",
        "taxonomy/programs.py",
        'dict.fromkeys(prompts.split(" + "))',
        'prompts.split(" + ")[:1]',
        "taxonomy/test_describe.py::test_the_cells_and_what_stands_in_them",
    ),
    Mutant(
        "abacus without an end: a line goes on",
        "models/language/abacus.py",
        """Special(eos=(IDS["\\n"],))""",
        "Special()",
        "models/language/test_abacus.py::test_it_writes_to_the_end_of_a_line",
    ),
    Mutant(
        "abacus leaves out what it has no token for",
        "models/language/abacus.py",
        "        if unknown:",
        "        text = [c for c in text if c in IDS]\n        if False:",
        "models/language/test_abacus.py::test_other_characters_are_refused",
    ),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("words", nargs="*", help="only mutants with one of these")
    parser.add_argument("--jobs", type=int, default=2, help="tests at a time")
    given = parser.parse_args()
    chosen = [m for m in MUTANTS if not given.words or _has(m, given.words)]
    if moved := [m for m in chosen if _places(m) != 1]:
        for m in moved:
            print(f"{m.file} holds {m.right!r} {_places(m)} times, not once: {m.what}")
        return 2
    with tempfile.TemporaryDirectory() as folder:
        copies = SimpleQueue()
        for i in range(given.jobs):
            copies.put(_copy(Path(folder) / str(i)))
        here = copies.get()
        if not _green(here, sorted({m.test for m in chosen})):
            return 2
        copies.put(here)

        def judge(mutant: Mutant) -> str:
            copy = copies.get()
            try:
                return _judge(copy, mutant)
            finally:
                copies.put(copy)

        with ThreadPoolExecutor(given.jobs) as pool:
            verdicts = list(pool.map(judge, chosen))
    wrong = [v for v in ("SURVIVED", "BROKEN") if v in verdicts]
    print(f"{verdicts.count('red')} of {len(chosen)} wrong variants turn a test red")
    return {"SURVIVED": 1, "BROKEN": 2}[wrong[0]] if wrong else 0


def _has(mutant: Mutant, words: Sequence[str]) -> bool:
    return any(word in f"{mutant.what} {mutant.file}" for word in words)


def _places(mutant: Mutant) -> int:
    path = ROOT / "reprojax" / mutant.file
    return path.read_text().count(mutant.right) if path.exists() else 0


def _copy(folder: Path) -> Path:
    skip = shutil.ignore_patterns("__pycache__")
    folder.mkdir()
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=skip)
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def _run(folder: Path, *command: str) -> subprocess.CompletedProcess:
    """Python in a copy, which comes before what is installed; and what it printed."""
    env = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    env.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax_cache"))
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS * 10,
    )


def _pytest(folder: Path, *tests: str) -> subprocess.CompletedProcess:
    quiet = ("-q", "-x", "--no-header", "--tb=line", "-p", "no:cacheprovider")
    return _run(folder, "-m", "pytest", *quiet, *(f"tests/{test}" for test in tests))


def _green(folder: Path, tests: Sequence[str]) -> bool:
    """Whether the tests pass on the right code, and look at the copy at all."""
    place = _run(folder, "-c", "import reprojax; print(reprojax.__file__)").stdout
    if not place.startswith(str(folder)):
        print(f"the tests would look at {place.strip()}, not at the copy")
        return False
    start, run = time.perf_counter(), _pytest(folder, *tests)
    if run.returncode:
        print(f"not green on the right code:\n{run.stdout}")
        return False
    print(f"green on the right code ({time.perf_counter() - start:.0f} s)", flush=True)
    return True


def _judge(folder: Path, mutant: Mutant) -> str:
    path = folder / "reprojax" / mutant.file
    right = path.read_text()
    path.write_text(right.replace(mutant.right, mutant.wrong))
    start = time.perf_counter()
    try:
        run = _pytest(folder, mutant.test)
    finally:
        path.write_text(right)
    verdict = {0: "SURVIVED", 1: "red"}.get(run.returncode, "BROKEN")
    seconds = time.perf_counter() - start
    print(f"{verdict:8}  {seconds:5.1f} s  {mutant.what}", flush=True)
    if verdict == "BROKEN":
        print(run.stdout, flush=True)
    return verdict


if __name__ == "__main__":
    sys.exit(main())
