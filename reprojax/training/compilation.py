"""Share a compiled function between programs that compute the same.

`jax.jit` knows a function by identity, so it compiles again for the program of a second
equal recipe call, or for another `optax.adam(.05)`. Here a function is traced first,
which is cheap, and known by its jaxpr: every operation with its settings, the types of
the inputs, and the bytes of each array that it closes over. That jaxpr is what runs,
not one of the functions, so programs that jax would trace differently are never
confused: another setting of jax, or another value of a global, gives another jaxpr.

Settings are compared by ==. Where that means identity, as for a callback into Python,
nothing is shared. The least recently used executables are dropped.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun

from reprojax.core import PyTree

KEPT = 64
"""How many executables to keep; a run has a few: step, evaluation, label maps."""
# Settings that do not matter for a jaxpr that is run and never differentiated.
IDLE = {
    "custom_jvp_call": {"jvp_jaxpr_fun"},
    "custom_vjp_call": {"fwd_jaxpr_thunk", "bwd", "out_trees"},
    "checkpoint": {"policy"},
    "jit": {"name"},
    "name": {"name"},
}

_executables: OrderedDict[tuple, Callable[..., Any]] = OrderedDict()


class Compiled:
    """function(*static, *args, **options), compiled for the shapes of the first args.

    Args:
        function: plain, or the result of `jax.jit`.
        static: what it closes over, such as a program: hashable, as are the options.
        donate: indices of the args whose buffers are donated.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *static: Any,
        donate: tuple[int, ...] = (),
        **options: Any,
    ) -> None:
        plain = getattr(function, "__wrapped__", function)  # undo jit
        self._jitted = _jitted(plain, static, tuple(options.items()))
        self._name, self._donate = function.__name__, donate
        self._run: Callable[..., Any] | None = None

    def __call__(self, *args: PyTree) -> PyTree:
        run = self._run = self._run or self.bound(*args)
        return run(*args)

    def bound(self, *args: PyTree) -> Any:
        """The jitted function for args of these shapes."""
        traced = self._jitted.trace(*args)
        trees = jax.tree.structure(args), jax.tree.structure(traced.out_info)
        return _shared(traced.jaxpr, trees, self._donate, self._name)


@lru_cache(maxsize=KEPT)  # so that jax finds its trace of the same objects again
def _jitted(function: Callable, static: tuple, options: tuple) -> Any:
    return jax.jit(partial(function, *static, **dict(options)))


@lru_cache(maxsize=KEPT)
def _shared(closed: ClosedJaxpr, trees: tuple, donate: tuple, name: str) -> Any:
    key = _closed(closed, {}), trees, donate
    found = _executables.pop(key, None) or _runner(closed, trees, donate, name)
    _executables[key] = found  # the newest are last
    if len(_executables) > KEPT:
        _executables.popitem(last=False)
    return found


def _runner(closed: ClosedJaxpr, trees: tuple, donate: tuple, name: str) -> Any:
    def run(*args: PyTree) -> PyTree:
        leaves, tree = jax.tree.flatten(args)
        found = [(np.shape(a), jnp.result_type(a)) for a in leaves]
        made = [(a.shape, a.dtype) for a in closed.in_avals]
        if tree != trees[0] or found != made:
            raise ValueError(
                f"{name} got {found}, expected what it was compiled for: {made}; "
                "make another Compiled for other shapes"
            )
        return jax.tree.unflatten(trees[1], jaxpr_as_fun(closed)(*leaves))

    run.__name__ = name
    return jax.jit(run, donate_argnums=donate)


# -- a jaxpr as a hashable value


def _closed(closed: ClosedJaxpr, known: dict[int, tuple]) -> tuple:
    if id(closed) not in known:
        consts = tuple(map(_array, closed.consts))
        known[id(closed)] = consts, _jaxpr(closed.jaxpr, known)
    return known[id(closed)]


def _jaxpr(jaxpr: Jaxpr, known: dict[int, tuple]) -> tuple:
    numbers: dict[Any, int] = {}

    def new(variable: Any) -> Any:
        numbers[variable] = len(numbers)
        return variable.aval

    def used(atom: Any) -> Any:
        if isinstance(atom, Literal):
            return _value(atom.val, known), atom.aval
        return numbers[atom]

    begun = *map(new, jaxpr.constvars), None, *map(new, jaxpr.invars)
    eqns = []
    for eqn in jaxpr.eqns:
        idle = IDLE.get(eqn.primitive.name, set())
        params = {n: v for n, v in eqn.params.items() if n not in idle}
        taken = tuple(map(used, eqn.invars))
        what = eqn.primitive, eqn.ctx, _value(params, known)
        eqns.append((what, taken, tuple(map(new, eqn.outvars))))
    return begun, tuple(eqns), tuple(map(used, jaxpr.outvars))


def _value(value: Any, known: dict[int, tuple]) -> Any:
    """A setting as a value that is equal for equal bits: 1 is not True, nor -0. 0."""
    if isinstance(value, ClosedJaxpr):
        return _closed(value, known)
    if isinstance(value, Jaxpr):
        return _jaxpr(value, known)
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        return _array(value)
    if isinstance(value, (float, complex)):
        return type(value), repr(value)
    if isinstance(value, Mapping):
        pairs = sorted(value.items(), key=lambda pair: str(pair[0]))
        return type(value), tuple((name, _value(own, known)) for name, own in pairs)
    if isinstance(value, (tuple, list)):
        return type(value), tuple(_value(each, known) for each in value)
    try:
        hash(value)
    except TypeError:
        return object()  # equal to nothing
    return type(value), value


def _array(value: Any) -> tuple:
    """Type, shape and digest of the bytes; of typed keys, those of their key data."""
    kind = str(value.dtype)
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    weak = getattr(value, "weak_type", False)
    data = np.ascontiguousarray(value).tobytes()
    return kind, np.shape(value), weak, hashlib.sha256(data).digest()
