"""Wrong variants that tests beside this file must notice."""

from mutation import Mutant

ZEROTH = "searches/zeroth_order.py"
ORACLE = "searches/oracle.py"

MUTANTS = (
    Mutant(
        "zeroth order: a sphere without its dimension",
        ZEROTH,
        "(u.size if scale is None else scale) * u",
        "u",
        "test_zeroth_order.py",
    ),
    Mutant(
        "zeroth order: two sides over one radius",
        ZEROTH,
        "values.mean(), sides * distance(state)",
        "values.mean(), distance(state)",
        "test_zeroth_order.py",
    ),
    Mutant(
        "zeroth order: segmented directions as if they were signs",
        ZEROTH,
        "lambda u: 1 / u)",
        "jnp.sign)",
        "test_zeroth_order.py",
    ),
    Mutant(
        "zeroth order: the momentum of a heavy ball",
        ZEROTH,
        "momentum, nesterov=True)",
        "momentum)",
        "test_zeroth_order.py::test_gradient_correction_looks_ahead",
    ),
    Mutant(
        "evolution: ranks favour the first of equals",
        "searches/evolution.py",
        "(below + equal / 2)",
        "values.argsort().argsort()",
        "test_evolution.py",
    ),
    Mutant(
        "evolution: CMA-ES changes a state that was handed out",
        "searches/evolution.py",
        "cma = copy.deepcopy(state.cma)\n        flat",
        "cma = state.cma\n        flat",
        "test_evolution.py::test_cma_es_is_pure",
    ),
    Mutant(
        "oracle: a request that passes the budget is cut to it, and paid",
        ORACLE,
        "        if len(todo) > self.budget - self.paid:",
        "        todo = todo[: max(self.budget - self.paid, 1)]\n        if not todo:",
        "test_oracle.py::test_the_budget_is_met_exactly_and_never_passed",
    ),
    Mutant(
        "oracle: equal images of a noisy model are asked once",
        ORACLE,
        "keys = digests if self.oracle.deterministic else list(numbers)",
        "keys = digests",
        "test_oracle.py",
    ),
    Mutant(
        "oracle: good answers are lost with a bad one",
        ORACLE,
        "        if self._log is not None:\n            self._log.append(request)",
        "        if self._log is not None and fine.all():\n"
        "            self._log.append(request)",
        "test_oracle.py::test_nan_is_named_paid_and_asked_again_alone",
    ),
    Mutant(
        "oracle: a key is the same after a bad answer",
        ORACLE,
        'f"{self._identity} {self.paid} {numbers}"',
        'f"{self._identity} {numbers}"',
        "test_oracle.py",
    ),
    Mutant(
        "oracle: a key is the same for other images",
        ORACLE,
        ' + b"".join(digests)\n',
        "\n",
        "test_oracle.py",
    ),
    Mutant(
        "replay: a disk that is full at the start keeps the lock",
        "saving/log.py",
        "except (OSError, ValueError):",
        "except ValueError:",
        "test_oracle.py",
    ),
    Mutant(
        "replay: damage in the middle is cut off with what is behind",
        "saving/log.py",
        "                if MAGIC in data[at + 1 :]:",
        "                if False:",
        "test_oracle.py::test_a_flipped_bit_is_no_torn_tail",
    ),
    Mutant(
        "replay: a second writer",
        "saving/log.py",
        "fcntl.LOCK_EX | fcntl.LOCK_NB",
        "fcntl.LOCK_SH | fcntl.LOCK_NB",
        "test_oracle.py::test_two_runs_on_one_log",
    ),
    Mutant(
        "bbt: the worst of the last points for the best",
        "searches/evolution.py",
        "rows[values.argmin()]",
        "rows[values.argmax()]",
        "test_evolution.py::test_the_result_may_be_the_best_point_that_was_asked",
    ),
)
