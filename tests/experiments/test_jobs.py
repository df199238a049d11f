"""Sweeps: kills, two at a time, failures, damage, a full disk, other executors.

Run as a script with a folder, this file is the sweep that gets killed.
"""

import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from experiments import sweep

ROOT = Path(__file__).parents[2]


def jobs(count=4, **settings):
    return {f"square/{n}": {"n": n, **settings} for n in range(count)}


def square(settings):
    """n², or what the settings ask for instead. Each call leaves a line in a file."""
    n = settings["n"]
    if "calls" in settings:
        with open(Path(settings["calls"]) / str(n), "a") as file:
            file.write("called\n")
    time.sleep(settings.get("seconds", 0))
    if n in settings.get("raise", ()):
        raise ArithmeticError(f"{n} is too much")
    if n == settings.get("die"):
        os.kill(os.getpid(), signal.SIGKILL)
    return {"square": n * n}


def done(folder, given=None, work=square, pool=None, **options):
    """{name: value} of a sweep in two threads."""
    with pool or ThreadPoolExecutor(2) as pool:
        options |= {"executor": pool, "progress": False}
        return dict(sweep.run(work, given or jobs(), folder, **options))


def values(table):
    return {name: outcome.value for name, outcome in table.items()}


SQUARES = {f"square/{n}": {"square": n * n} for n in range(4)}


# -- results


def test_results_are_files_and_are_not_computed_again(tmp_path):
    assert values(done(tmp_path)) == SQUARES
    never = lambda settings: pytest.fail("a job ran")
    assert values(done(tmp_path, work=never)) == SQUARES
    assert values(sweep.finished(tmp_path)) == SQUARES
    assert sweep.failures(sweep.finished(tmp_path)) is None
    more = done(tmp_path, {"another": {"n": 5}})
    assert values(more) == {"another": {"square": 25}}
    assert values(sweep.finished(tmp_path)) == {"another": {"square": 25}} | SQUARES


def test_numbers_come_back_exactly(tmp_path):
    numbers = [math.nan, math.inf, -math.inf, -0.0, 0.1 + 0.2, 5e-324, 2**80]
    came = done(tmp_path, {"a": {}}, lambda _: {"of": tuple(numbers)})["a"].value
    kept = sweep.finished(tmp_path)["a"].value
    assert list(map(repr, kept["of"])) == list(map(repr, numbers))
    assert repr(came) == repr(kept)


def test_a_job_that_raises_is_recorded_and_retried_on_request(tmp_path, capsys):
    given = jobs(calls=str(tmp_path), **{"raise": [1, 2]})
    folder = tmp_path / "run"
    table = done(folder, given)
    assert table["square/1"].error == "ArithmeticError: 1 is too much"
    assert "raise ArithmeticError" in table["square/1"].trace[-1]
    assert table["square/1"].value is None and table["square/3"].value == {"square": 9}
    assert table == done(folder, given) == sweep.finished(folder)
    with pytest.raises(SystemExit, match="2 of 4 jobs failed:\n  square/1: Arith"):
        sweep.main(sweep.Config(folder))
    assert capsys.readouterr().out.startswith("4 jobs have a result, after 0 seconds")
    mended = lambda settings: {"mended": settings["n"]}
    again = values(done(folder, given, mended, retry_failed=True))
    both = {"square/1": {"mended": 1}, "square/2": {"mended": 2}}
    assert again == SQUARES | both == values(sweep.finished(folder))
    calls = [(tmp_path / str(n)).read_text().count("called") for n in range(4)]
    assert calls == [1] * 4


def test_a_failure_that_another_process_has_retried_is_not_retried_again(tmp_path):
    fails = {"n": 1, "raise": [1]}
    (old,) = done(tmp_path, {"a": fails}).values()
    newer, _ = sweep._one(square, "a", fails, tmp_path, old)
    assert newer is not None and newer != old and newer.error == old.error
    never = lambda settings: pytest.fail("a job ran")
    assert sweep._one(never, "a", fails, tmp_path, old) == (newer, None)


@pytest.mark.parametrize(
    "result, error", [(object(), "is not JSON"), ("x" * 2**25, "bytes as JSON")]
)
def test_a_result_that_cannot_be_kept_is_a_failure(tmp_path, result, error):
    assert error in done(tmp_path, {"a": {}}, lambda _: result)["a"].error


# -- what is refused


@pytest.mark.parametrize(
    "given, error",
    [
        ({"../a": {}}, "got a job named '../a'"),
        ({"a//b": {}}, "got a job named"),
        ({".a": {}}, "got a job named"),
        ({"a\n": {}}, "got a job named"),
        ({"a" * 201: {}}, "got a job named"),
        ({"a": {}, "a.json/b": {}}, "got a job named"),
        ({"a": {}, "a.lock/b": {}}, "got a job named"),
        ({3: {}}, "got a job named 3"),
        ([("a", {}), ("a", {})], "got the jobs 'a' and 'a'"),
        ({"a/B": {}, "a/b": {}}, "got the jobs 'a/B' and 'a/b'"),
        ({"a": 3}, "settings of job 'a' are a int"),
        ({"a": {"of": {1}}}, "settings of job 'a' is not JSON"),
        ({"a": {"rate": math.nan}}, "settings of job 'a' is not JSON"),
    ],
)
def test_jobs_that_cannot_be_kept(tmp_path, given, error):
    with pytest.raises(ValueError, match=error):
        sweep.run(square, given, tmp_path / "run", executor=ThreadPoolExecutor(1))
    assert not (tmp_path / "run").exists()


def test_another_configuration_is_refused_by_what_differs(tmp_path, monkeypatch):
    identity = {"images": 600, "protocol": 1}
    done(tmp_path, identity=identity)
    with pytest.raises(ValueError, match="images: got 16, expected 600"):
        done(tmp_path, identity=identity | {"images": 16})
    with monkeypatch.context() as patch:
        patch.setattr(sweep, "FORMAT", "of another version")
        with pytest.raises(ValueError, match="another version of reprojax made it"):
            done(tmp_path, identity=identity)
    with pytest.raises(ValueError, match=r"(?s)'square/1' .*\n  n: got 7, expected 1"):
        done(tmp_path, jobs() | {"square/1": {"n": 7}}, identity=identity)
    with pytest.raises(ValueError, match="holds no sweep"):
        sweep.finished(tmp_path / "results")


def test_damaged_and_foreign_files_are_noticed(tmp_path):
    done(tmp_path)
    path = tmp_path / "results/square/2.json"
    whole = path.read_text()
    other = whole.replace("square/2", "square/3")
    for text in (whole[:50], "", "{}", whole.replace("{", '{"more": 1, ', 1), other):
        path.write_text(text)
        for read in (done, sweep.finished):
            with pytest.raises(ValueError, match=r"2.json (is damaged|holds the res)"):
                read(tmp_path)
    path.unlink()
    (path.parent / ".2.json.17.tmp").write_text(whole[:50])  # what a kill leaves
    assert values(sweep.finished(tmp_path)) == {
        name: value for name, value in SQUARES.items() if name != "square/2"
    }
    assert values(done(tmp_path)) == SQUARES


# -- what breaks


def test_a_full_disk_stops_the_sweep_and_hands_out_what_was_computed(
    tmp_path, monkeypatch
):
    write = sweep.write_file

    def full(path, data):
        if path.stem != "0":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    came = {}
    with monkeypatch.context() as patch, ThreadPoolExecutor(1) as pool:
        patch.setattr(sweep, "write_file", full)
        given = jobs(100, seconds=0.03)
        with pytest.raises(OSError, match="file could not be written") as raised:
            for name, outcome in sweep.run(
                square, given, tmp_path, executor=pool, progress=False
            ):
                came[name] = outcome
    assert raised.value.errno == errno.ENOSPC
    kept = sweep.finished(tmp_path)
    assert list(kept) == ["square/0"] and 2 <= len(came) < 10
    notes = [json.loads(note)["name"] for note in raised.value.__notes__]
    assert {*notes, *kept} == came.keys()
    assert len(done(tmp_path, given, pool=ThreadPoolExecutor(50))) == 100


def test_a_job_that_finds_the_disk_full_stops_the_sweep(tmp_path):
    def fill(settings):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="0 results have no file; those in .* are whole"):
        done(tmp_path, work=fill)
    assert sweep.finished(tmp_path) == {}


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(OSError, match=r"cannot be locked \(Func.*expected a file sys"):
        done(tmp_path)


class Breaks(ThreadPoolExecutor):
    """As a process pool, of which the third job kills a process."""

    def submit(self, fn, /, *args):
        if args[1] != "square/2":
            return super().submit(fn, *args)
        future = Future()
        future.set_exception(BrokenProcessPool("terminated abruptly"))
        return future


def test_an_executor_that_breaks_loses_nothing_that_was_finished(tmp_path):
    with pytest.raises(RuntimeError, match="failed while it had job 'square/2' .Brok"):
        done(tmp_path, pool=Breaks(1))
    assert values(done(tmp_path)) == SQUARES


@pytest.mark.parametrize(
    ("workers", "expected"),
    [
        (1, [[0, 1, 4, 5, 7]]),
        (2, [[0, 1], [4, 5]]),
        (7, [[0], [1], [4], [5], [7], [0], [1]]),
    ],
)
def test_workers_divide_the_cores(workers, expected, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {7, 5, 4, 1, 0})
    assert sweep.shares(workers) == expected


def test_each_process_has_a_share_and_starts_as_asked(monkeypatch):
    taken, started = [], []
    monkeypatch.setattr(sweep, "shares", lambda workers: [[3], [5]])
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, own: taken.append(own))
    with sweep.processes(2, started.append, "methods.py") as pool:
        for _ in range(2):  # as each process does
            pool._initializer(*pool._initargs)
    assert taken == [[3], [5]] and started == ["methods.py"] * 2


def test_a_worker_that_does_not_see_the_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="sees no .*that all workers share"):
        sweep._one(square, "a", {"n": 1}, tmp_path, None)


def test_a_caller_that_leaves_stops_the_sweep(tmp_path):
    with ThreadPoolExecutor(1) as pool:
        given = jobs(100, seconds=0.01)
        for _ in sweep.run(square, given, tmp_path, executor=pool, progress=False):
            break
    assert 1 <= len(sweep.finished(tmp_path)) < 50


# -- several at a time


def test_two_sweeps_on_one_folder_run_each_job_once(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "OTHERS", 0.02)
    given = jobs(12, calls=str(tmp_path), seconds=0.02)
    folder = tmp_path / "run"
    with ThreadPoolExecutor(2) as callers:
        both = [callers.submit(done, folder, given) for _ in range(2)]
        tables = [future.result() for future in both]
    assert tables[0] == tables[1] == sweep.finished(folder) and len(tables[0]) == 12
    calls = [(tmp_path / str(n)).read_text().count("called") for n in range(12)]
    assert calls == [1] * 12


def started(folder, workers=2, **settings):
    given = {"calls": str(folder.parent), "seconds": 0.2, **settings}
    words = [sys.executable, __file__, str(folder), str(workers), json.dumps(given)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(words, env=env, stderr=subprocess.PIPE, text=True)


def test_processes_are_killed_and_two_others_end_with_the_same_table(tmp_path):
    folder = tmp_path / "run"
    killed = started(folder)
    while not (ended := [*folder.glob("results/square/*.json")]):
        assert killed.poll() is None
        time.sleep(0.05)
    killed.kill()
    killed.communicate(timeout=60)  # its workers have ended too: they hold the pipe
    kept = {path: path.stat().st_mtime_ns for path in ended}
    count = len(sweep.finished(folder))
    assert 1 <= count < 20
    before = [len(p.read_text().split()) for p in tmp_path.glob("[0-9]*")]
    both = [started(folder, workers=1) for _ in range(2)]
    texts = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], texts
    wanted = {f"square/{n}": {"square": n * n} for n in range(20)}
    assert values(sweep.finished(folder)) == wanted
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    calls = [len((tmp_path / str(n)).read_text().split()) for n in range(20)]
    # those that were running when the sweep was killed, at most two, ran once more
    assert sum(calls) == 20 + sum(before) - count and sum(before) - count <= 2


def test_a_worker_that_dies_breaks_the_pool_and_the_sweep_says_so(tmp_path):
    process = started(tmp_path / "run", die=3, seconds=0)
    error = process.communicate()[1]
    assert process.returncode == 1 and "RuntimeError: the executor failed" in error
    assert len(sweep.finished(tmp_path / "run")) >= 1


@pytest.mark.verify
@pytest.mark.filterwarnings("ignore")  # dask's and tornado's own
def test_dask_gives_the_same_table(tmp_path):
    from distributed import Client, LocalCluster

    folder = tmp_path / "run"
    given = jobs(calls=str(tmp_path), **{"raise": [1]})
    options = {"processes": False, "n_workers": 2, "threads_per_worker": 1}
    with LocalCluster(dashboard_address=None, **options) as cluster:
        with Client(cluster) as client:
            pool = client.get_executor(pure=False)
            table = done(folder, given, pool=pool)
    assert table == sweep.finished(folder)
    here = done(tmp_path / "here", given)
    assert values(here) == values(table)
    for name, outcome in here.items():
        assert table[name].error == outcome.error


if __name__ == "__main__":
    folder, workers, settings = sys.argv[1:]
    given = jobs(20, **json.loads(settings))
    with sweep.processes(int(workers)) as pool:
        for _ in sweep.run(square, given, folder, executor=pool):
            pass
    sys.exit(sweep.failures(sweep.finished(folder)))
