"""Wrong variants that tests beside this file must notice."""

from mutation import Mutant

MUTANTS = (
    Mutant(
        "batches: what fills the last one keeps its labels",
        "data/order.py",
        "    y[real:] = filler(y)\n",
        "",
        "test_order.py",
    ),
    Mutant(
        "lazy: batches read ahead start at step 0",
        "data/order.py",
        "MapDataset.range(first, total)",
        "MapDataset.range(total - first)",
        "test_lazy.py",
    ),
    Mutant(
        "lazy: everything is read ahead",
        "data/order.py",
        "prefetch_buffer_size=AHEAD",
        "prefetch_buffer_size=500",
        "test_lazy.py",
    ),
    Mutant(
        "lazy: the digest does not look into files",
        "data/lazy.py",
        "{path.name} {size} {tail}",
        "{path.name} {size}",
        "test_lazy.py",
    ),
    Mutant(
        "lazy: other rows than those drawn",
        "data/lazy.py",
        "self._sources, self._where[rows],",
        "self._sources, self._where[: len(rows)],",
        "test_lazy.py",
    ),
    Mutant(
        "images: a linked folder is not followed",
        "data/folder.py",
        "if entry.is_dir():",
        "if entry.is_dir(follow_symlinks=False):",
        "test_folder.py::test_linked_folders_are_followed_without_circles",
    ),
    Mutant(
        "images: files of one size count as equal",
        "data/lazy.py",
        "(size_of, _tail, _sha256)",
        "(size_of,)",
        "test_lazy.py::test_a_lazy_folder_is_the_folder",
    ),
    Mutant(
        "images: deep grey is cut at 255",
        "data/pixels.py",
        "(grey // 257)",
        "np.minimum(grey, 255)",
        "test_folder.py::test_deep_grey_is_scaled_by_one_rule",
    ),
    Mutant(
        "images: an equal one stays in training beside the test split",
        "data/splits.py",
        "for part in reversed(SPLITS):",
        "for part in SPLITS:",
        "test_splits.py::test_of_equal_images_the_test_split_keeps_its_own",
    ),
    Mutant(
        "texts: one stands in two splits",
        "data/text.py",
        'part in ("test", first_part) and (',
        "part and (",
        "test_data_text.py::test_no_text_stands_in_two_splits",
    ),
    Mutant(
        "letters: each letter is behind a glass of its own",
        "data/letters.py",
        "_behind(rng, glass, lines, each)",
        "_behind(rng, _reflection(rng), lines, each)",
        "test_sources.py::test_the_same_light_lies_over_all_letters",
    ),
)
