"""Wrong variants that are easily written, each with the test that must notice it.

    make mutants                         all of them, in a copy of the repository
    python tests/mutation.py smm vpt     those with one of these words

They stand in `mutants.py` beside their tests. Each is a snippet of the right code and a
wrong one in its place. The tests are run on the right code first. The exit status is 1
if a test stays green on wrong code, and 2 if a snippet is no longer where it was, or a
test cannot be run.
"""

import argparse
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
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
    """Beside the list that it stands in, as pytest names it."""


def mutants() -> Iterator[Mutant]:
    """Those of all folders, with their tests below tests/."""
    for path in sorted(TESTS.rglob("mutants.py")):
        folder = path.parent.relative_to(TESTS)
        for mutant in runpy.run_path(str(path))["MUTANTS"]:
            yield mutant._replace(test=str(folder / mutant.test))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("words", nargs="*", help="only mutants with one of these")
    parser.add_argument("--jobs", type=int, default=2, help="tests at a time")
    given = parser.parse_args()
    chosen = [m for m in mutants() if not given.words or _has(m, given.words)]
    if not chosen:
        print(f"no mutant has one of the words {', '.join(given.words)}")
        return 2
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
