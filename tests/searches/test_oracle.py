"""An oracle's budget, retries and log.

The wrong variants: a request that passes the budget, or that is cut to it; a repeated
query that gets the old answer of a noisy model; an answer that is used before it is on
disk; good answers that are lost with a bad one, or a bad one that is not on the bill.
"""

import json
import os
import zlib

import jax.numpy as jnp
import numpy as np
import pytest

from reprojax.saving.log import HEAD, MAGIC
from reprojax.searches import Account, BudgetSpent, Oracle, logits

RANDOM = np.random.default_rng(0)
X = RANDOM.uniform(size=(12, 2, 2, 3)).astype(np.float32)


class Model:
    """Answers, and remembers what it was asked."""

    def __init__(self, spoil=lambda request, answer: answer, noise=0.0):
        self.requests, self.spoil, self.noise = [], spoil, noise
        self.random = np.random.default_rng(1)

    def __call__(self, images, *key):
        self.requests.append((np.array(images), *key))
        answer = np.asarray(images).reshape(len(images), -1)[:, :4].copy()
        answer += self.noise * self.random.normal(size=answer.shape)
        return self.spoil(len(self.requests), answer)

    @property
    def rows(self):
        return sum(len(request[0]) for request in self.requests)


def oracle(model, **changes):
    return Oracle(**({"answer": model, "classes": 4, "chunk": 5, "wait": 0} | changes))


def wanted(x):
    return x.reshape(len(x), -1)[:, :4]


def test_requests_are_chunks_and_each_row_is_a_query():
    model = Model()
    with Account(oracle(model), 20) as account:
        np.testing.assert_array_equal(account.ask(X), wanted(X))
        assert [len(r[0]) for r in model.requests] == [5, 5, 2]
        assert (account.paid, account.asked, account.left) == (12, 12, 8)


def test_the_budget_is_met_exactly_and_never_passed():
    model = Model()
    with Account(oracle(model), 20) as account:
        account.ask(X)
        with pytest.raises(BudgetSpent, match="9 queries and 8 of 20 are left; no"):
            account.ask(X[:9])
        assert model.rows == 12  # not even the five that a chunk had
        account.ask(X[:8])
        assert model.rows == account.paid == 20
        with pytest.raises(BudgetSpent):
            account.ask(X[:1])
    assert model.rows == 20


@pytest.mark.parametrize("budget", [0, -3])
def test_a_budget_of_nothing(budget, tmp_path):
    with pytest.raises(ValueError, match=f"a budget of {budget} queries, expected"):
        Account(oracle(Model()), budget, tmp_path / "log")
    assert not (tmp_path / "log").exists()


def test_a_log_answers_instead_of_the_model(tmp_path):
    first, second = Model(noise=1.0), Model(noise=1.0)
    with Account(oracle(first), 40, tmp_path / "log", {"seed": 1}) as account:
        answers = [account.ask(X[:7]), account.ask(X[7:])]
    with Account(oracle(second), 40, tmp_path / "log", {"seed": 1}) as account:
        assert account.paid == 12 and account.left == 40
        again = [account.ask(X[:7]), account.ask(X[7:])]
        assert not second.requests
        account.ask(X[:3])
        assert second.rows == 3 and account.paid == 15
    for a, b in zip(answers, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not (tmp_path / "log.torn").exists()


def test_a_noisy_model_is_asked_again_unless_told_otherwise(tmp_path):
    twice = np.concatenate([X[:3], X[:3]])
    model = Model(noise=1.0)
    with Account(oracle(model), 40, tmp_path / "a") as account:
        found = account.ask(twice)
        assert model.rows == 6 and np.all(found[:3] != found[3:])
    again = Model(noise=1.0)
    with Account(oracle(again), 40, tmp_path / "a") as account:
        np.testing.assert_array_equal(account.ask(twice), found)
    once = Model(noise=1.0)
    with Account(oracle(once, deterministic=True), 4, tmp_path / "b") as account:
        found = account.ask(twice)
        np.testing.assert_array_equal(found[:3], found[3:])
        np.testing.assert_array_equal(account.ask(X[1:3]), found[1:3])
        assert once.rows == account.paid == 3
        account.ask(X[2:4])
        assert once.rows == 4


def test_another_run_is_refused(tmp_path):
    log = tmp_path / "log"
    with Account(oracle(Model()), 40, log, {"seed": 1, "program": "a"}) as account:
        account.ask(X)
    kept = log.read_bytes()
    for other in ({"seed": 2, "program": "a"}, {"seed": 1}):
        with pytest.raises(ValueError, match="of another run: .* differ"):
            Account(oracle(Model()), 40, log, other).__enter__()
    with pytest.raises(ValueError, match="of another run: oracle differ"):
        named = oracle(Model(), name="v2")
        Account(named, 40, log, {"seed": 1, "program": "a"}).__enter__()
    model = Model()
    with Account(oracle(model), 40, log, {"seed": 1, "program": "a"}) as account:
        account.ask(X[:2])
        with pytest.raises(ValueError, match="query 2 differs from the log"):
            account.ask(X[:2])
    assert log.read_bytes() == kept and not model.requests


def test_two_runs_on_one_log(tmp_path):
    with Account(oracle(Model()), 40, tmp_path / "log") as account:
        account.ask(X)
        with pytest.raises(ValueError, match="in use by another run"):
            Account(oracle(Model()), 40, tmp_path / "log").__enter__()
        account.ask(X)  # the first one is not disturbed
    with Account(oracle(Model()), 40, tmp_path / "log") as account:
        assert account.paid == 24


def test_a_torn_tail_is_cut_and_kept(tmp_path):
    log = tmp_path / "log"
    with Account(oracle(Model()), 40, log) as account:
        account.ask(X[:5])
        whole = log.read_bytes()
        account.ask(X[5:10])
    full = log.read_bytes()
    for size in (len(whole) + 3, len(whole) + HEAD.size + 9, len(full) - 1):
        log.write_bytes(full[:size])
        model = Model()
        with Account(oracle(model), 40, log) as account:
            assert account.paid == 5 and log.read_bytes() == whole
            assert log.with_name("log.torn").read_bytes() == full[len(whole) : size]
            account.ask(X[:5])
            account.ask(X[5:10])
        assert model.rows == 5 and log.read_bytes() == full
    log.write_bytes(full[: HEAD.size + 4])  # killed while the identity was written
    with Account(oracle(Model()), 40, log) as account:
        assert account.paid == 0


def test_a_flipped_bit_is_no_torn_tail(tmp_path):
    log = tmp_path / "log"
    with Account(oracle(Model()), 40, log) as account:
        account.ask(X[:5])
        middle = log.stat().st_size - 20
        account.ask(X[5:10])
    data = bytearray(log.read_bytes())
    data[middle] ^= 1
    log.write_bytes(bytes(data))
    with pytest.raises(ValueError, match="damaged at byte .*nothing was changed"):
        Account(oracle(Model()), 40, log).__enter__()
    assert log.read_bytes() == bytes(data)


def test_another_file_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(
        ValueError, match="is not a log of queries; nothing was changed"
    ):
        Account(oracle(Model()), 40, tmp_path / "thesis.txt").__enter__()
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_the_identity_is_readable(tmp_path):
    with Account(oracle(Model()), 40, tmp_path / "log", {"seed": 3}):
        pass
    data = (tmp_path / "log").read_bytes()
    magic, length, _ = HEAD.unpack_from(data)
    assert magic == MAGIC
    assert json.loads(data[HEAD.size : HEAD.size + length]) == {
        "oracle": {
            "name": "oracle",
            "source": "",
            "kind": "logits",
            "classes": 4,
            "deterministic": False,
        },
        "seed": 3,
    }


@pytest.mark.parametrize(
    "change",
    [
        {"name": "b"},
        {"source": "http://b/v1, model-b"},
        {"kind": "probabilities"},
        {"deterministic": True},
    ],
)
def test_a_log_of_another_oracle_is_refused(tmp_path, change):
    given = {"source": "http://a/v1, model-a"}
    with Account(oracle(Model(), **given), 40, tmp_path / "log", {"seed": 3}):
        pass
    other = Account(
        oracle(Model(), **(given | change)), 40, tmp_path / "log", {"seed": 3}
    )
    with pytest.raises(ValueError, match="of another run: oracle differ"):
        other.__enter__()


def test_an_identity_adds_and_replaces_nothing(tmp_path):
    with pytest.raises(ValueError, match="the log adds this one"):
        Account(oracle(Model()), 40, tmp_path / "log", {"oracle": "mine"})


@pytest.mark.parametrize("head", [b"[]", b"null", b'{"seed": ', b"3"])
def test_a_log_whose_head_is_no_identity_is_refused(tmp_path, head):
    log = tmp_path / "log"
    log.write_bytes(HEAD.pack(MAGIC, len(head), zlib.crc32(head)) + head)
    with pytest.raises(ValueError, match=r"the head of .*log is"):
        Account(oracle(Model()), 40, log).__enter__()


def test_a_pipe_is_no_log(tmp_path):
    os.mkfifo(tmp_path / "log")
    with pytest.raises(ValueError, match="a named pipe"):
        Account(oracle(Model()), 40, tmp_path / "log").__enter__()


def test_requests_that_fail_are_made_again():
    def flaky(request, answer):
        if request in (1, 2, 4):
            raise ConnectionError("gone")
        return answer

    model, waits = Model(flaky), []
    account = Account(oracle(model, wait=0.5, keyed=True), 40)
    with pytest.MonkeyPatch.context() as patch, account:
        patch.setattr("time.sleep", waits.append)
        np.testing.assert_array_equal(account.ask(X), wanted(X))
    assert waits == [0.5, 1.0, 0.5] and account.paid == 12
    keys = [key for _, key in model.requests]
    assert len(set(keys)) == 3 and keys[0] == keys[1] == keys[2] and keys[3] == keys[4]


def test_a_service_that_is_down_ends_the_run_and_loses_nothing(tmp_path):
    def down(request, answer):
        if request > 1:
            raise TimeoutError("no answer")
        return answer

    model = Model(down)
    with pytest.raises(TimeoutError) as error:
        with Account(oracle(model, retries=2), 40, tmp_path / "log") as account:
            account.ask(X)
    assert "failed 3 times; 5 answers are in the log" in error.value.__notes__[0]
    assert len(model.requests) == 1 + 3
    model = Model()
    with Account(oracle(model), 40, tmp_path / "log") as account:
        np.testing.assert_array_equal(account.ask(X), wanted(X))
    assert model.rows == 7


def test_a_key_says_which_images_are_asked():
    model = Model()
    for x in (X[:2], X[:2], X[2:4]):  # no log: three runs that look the same
        with Account(oracle(model, keyed=True), 2) as account:
            account.ask(x)
    first, again, other = (key for _, key in model.requests)
    assert first == again != other


def test_without_a_log_other_images_get_no_answers_of_a_request_that_failed():
    def gone(request, answer):
        if request == 2:
            raise ConnectionError("gone")
        return answer

    with Account(oracle(Model(gone), retries=0), 40) as account:
        with pytest.raises(ConnectionError):
            account.ask(X[:10])
        np.testing.assert_array_equal(account.ask(X[2:8]), wanted(X[2:8]))


def test_an_error_of_the_program_is_not_tried_again():
    def wrong(request, answer):
        raise KeyError("a typing mistake")

    model = Model(wrong)
    with Account(oracle(model), 40) as account, pytest.raises(KeyError):
        account.ask(X)
    assert len(model.requests) == 1


def nan(request, answer):
    if request == 2:
        answer[1, 2] = np.nan
    return answer


def test_nan_is_named_paid_and_asked_again_alone(tmp_path):
    model = Model(nan)
    with pytest.raises(
        ValueError, match="nan.*to row 1, expected finite.*4 answers.*10 answers are in"
    ):
        with Account(oracle(model), 14, tmp_path / "log") as account:
            account.ask(X)
    model = Model()
    with Account(oracle(model), 14, tmp_path / "log") as account:
        assert account.paid == 10 and account.left == 14  # planned as the first time
        np.testing.assert_array_equal(account.ask(X), wanted(X))
        assert account.left == 14 - len(X) - 1  # one was for nothing
        np.testing.assert_array_equal(model.requests[0][0][0], X[6])
        assert model.rows == 3 and account.paid == 13
        with pytest.raises(BudgetSpent):
            account.ask(X[:2])


def test_a_key_is_another_one_after_a_bad_answer(tmp_path):
    model = Model(lambda request, answer: answer * np.nan)
    with pytest.raises(ValueError, match="nan"):
        with Account(oracle(model, keyed=True), 40, tmp_path / "log") as account:
            account.ask(X[:2])
    again = Model()
    with Account(oracle(again, keyed=True), 40, tmp_path / "log") as account:
        account.ask(X[:2])
    assert model.requests[0][1] != again.requests[0][1]


@pytest.mark.parametrize(
    "kind, answer, message",
    [
        ("logits", np.zeros((5, 3)), r"the shape \(5, 3\), expected finite .* \[5 4\]"),
        ("logits", np.zeros((4, 4)), r"the shape \(4, 4\)"),
        ("probabilities", np.ones((5, 4)), r"\[1.0, 1.0.*expected \[5 4\] that sum to"),
        ("labels", np.array([0, 1, 2, 3, 4]), r"\[4.0\] to row 4.*below 4"),
        ("labels", np.array([0, 1, 1.5, 3, 3]), r"\[1.5\] to row 2"),
        ("top-k", np.zeros((3, 5, 2)), r"the shape \(5, 2\), expected classes \[5 k\]"),
        ("top-k", (np.full((5, 2), 4), np.full((5, 2), 0.3)), r"\[4.0, 4.0.*to row 0"),
    ],
)
def test_answers_of_the_wrong_kind(kind, answer, message):
    asked = oracle(lambda images: answer, kind=kind)
    with Account(asked, 40) as account, pytest.raises(ValueError, match=message):
        account.ask(X[:5])


@pytest.mark.parametrize("kind", ["logits", "top-k"])
@pytest.mark.parametrize("answer", [None, [], np.zeros((0, 4))])
def test_no_answer_at_all_is_not_paid(answer, kind, tmp_path):
    asked = oracle(lambda images: answer, kind=kind)
    expected = {"logits": "finite", "top-k": "classes"}[kind]
    with Account(asked, 40, tmp_path / "log") as account:
        with pytest.raises(
            ValueError, match=f"oracle answered nothing; expected {expected}"
        ):
            account.ask(X[:5])
        assert account.paid == 0


def softmax(a):
    a = np.exp(a - a.max(-1, keepdims=True))
    return a / a.sum(-1, keepdims=True)


def test_answers_of_each_kind_as_logits():
    p = softmax(RANDOM.normal(size=(6, 4)))
    best = p.argmax(1)
    ids = np.argsort(-p, 1)[:, :2]
    answers = {
        "logits": np.log(p) + 3,
        "probabilities": p,
        "top-k": (ids, np.take_along_axis(p, ids, 1)),
        "labels": best,
    }
    found = {}
    for kind, answer in answers.items():
        asked = oracle(lambda images, answer=answer: answer, kind=kind, chunk=9)
        with Account(asked, 40) as account:
            answers = jnp.asarray(account.ask(X[:6]))
            found[kind] = softmax(np.asarray(logits(kind, answers, 4)))
    np.testing.assert_allclose(found["logits"], p, rtol=1e-5)
    np.testing.assert_allclose(found["probabilities"], p, rtol=1e-5)
    rest = (1 - np.take_along_axis(p, ids, 1).sum(1)) / 2
    top = np.repeat(rest[:, None], 4, 1)
    np.put_along_axis(top, ids, np.take_along_axis(p, ids, 1), 1)
    np.testing.assert_allclose(found["top-k"], top, rtol=1e-4)
    sure = np.where(np.arange(4) == best[:, None], 0.9, 0.1 / 3)
    np.testing.assert_allclose(found["labels"], sure, rtol=1e-5)


def test_wrong_oracles():
    with pytest.raises(ValueError, match="kind 'scores', expected one of"):
        Account(oracle(Model(), kind="scores"), 4)
    with pytest.raises(ValueError, match="classes=1, chunk=5 and retries=5, expected"):
        Account(oracle(Model(), classes=1), 4)


def test_a_full_disk_at_the_start_keeps_no_lock(tmp_path):
    account = Account(oracle(Model()), 40, tmp_path / "log")
    with pytest.MonkeyPatch.context() as patch:
        write = __import__("os").write
        patch.setattr("os.write", lambda fd, data: write(fd, data[:5]))
        with pytest.raises(OSError, match="is full"):
            account.__enter__()
    with Account(oracle(Model()), 40, tmp_path / "log") as account:
        account.ask(X[:5])


def test_a_full_disk_tears_nothing(tmp_path):
    log = tmp_path / "log"
    with Account(oracle(Model()), 40, log) as account:
        account.ask(X[:5])
        before = log.read_bytes()
        with pytest.MonkeyPatch.context() as patch:
            write = __import__("os").write
            patch.setattr("os.write", lambda fd, data: write(fd, data[:30]))
            with pytest.raises(OSError, match="is full"):
                account.ask(X[5:10])
        assert log.read_bytes() == before
