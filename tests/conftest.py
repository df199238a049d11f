"""Tests run with shapes checked, warnings as errors and a compilation cache."""

import gc
import os
from pathlib import Path

# In the environment, so that it is set before jax and keras are imported, and so that
# tests which start another Python have the cache too.
CACHE = str(Path(__file__).parents[1] / ".jax_cache")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", CACHE)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("KERAS_BACKEND", "jax")
# XLA optimises what runs long. A test runs its program once or twice, so that most of
# its time went into LLVM's passes; without them a cold run takes a quarter less. An
# operation alone compiles in 12 ms in place of 23 without the emitters of fusions.
QUICK = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false"
)
os.environ["XLA_FLAGS"] = f"{QUICK} {os.environ.get('XLA_FLAGS', '')}".strip()

import jaxtyping  # noqa: E402
import pytest  # noqa: E402

# Before any import of reprojax.
jaxtyping.install_import_hook("reprojax", "checker.check")

# Traces and cards stay for good: to look for garbage among them at every turn took more
# than a tenth of the time.
gc.set_threshold(100_000, 50, 50)

# Not our own: a torn entry of the cache is compiled anew; orbax leaves other reads open
# when one of them finds a damaged checkpoint, or a full disk.
PASSING = (
    "ignore:Error (reading|writing) persistent compilation cache:UserWarning",
    "ignore:Exception ignored in. <coroutine object (_|Store\\._)"
    ":pytest.PytestUnraisableExceptionWarning",
)


@pytest.fixture
def unchecked():
    """What a caller sees whose types nobody checks: the library's own errors."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def pytest_configure(config):
    for line in ("error", *PASSING):
        config.addinivalue_line("filterwarnings", line)


def listed(name):
    """The tests of a list beside this file, without its comments."""
    lines = (Path(__file__).parent / name).read_text().splitlines()
    return {line for line in lines if line[0] != "#"}


LISTS = {"verify": listed("long.txt"), "slow": listed("slow.txt")}


@pytest.hookimpl(tryfirst=True)  # before pytest looks at the marks
def pytest_collection_modifyitems(items):
    for item in items:
        for mark, names in LISTS.items():
            if item.nodeid in names:
                item.add_marker(mark)


def pytest_collection_finish():
    gc.freeze()


def pytest_addoption(parser):
    parser.addoption(
        "--no-skips", action="store_true", help="a skipped test fails the run"
    )


def pytest_sessionfinish(session, exitstatus):
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if session.config.getoption("--no-skips") and skipped and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter.write_line(f"{len(skipped)} tests were skipped", red=True)
