"""Right answers through our own prompts, rules and scores are right, wrong ones not."""

import re

import pytest
from scripted import Scripted

from experiments.shared.texts import bbh, bbh_tasks, gsm8k
from reprojax.recipes.prompt_instruction import chain_of_thought
from reprojax.text import Completion, Score
from reprojax.text.benchmarks import bbh_benchmark, evaluate, gsm8k_benchmark


def asked(request):
    """The question of a prompt, whatever demonstrations stand before it."""
    return request.prompt.rsplit("\n\nQ: ", 1)[-1].removeprefix("Q: ")[: -len("\nA:")]


def scored(benchmark, rows, answer, shown=()):
    """answer(row) is what is written behind a row's question."""
    by_question = {row["question"]: row for row in rows}
    scripted = Scripted(lambda request: answer(by_question[asked(request)]))
    demonstrations = [benchmark.demonstration(row) for row in shown]
    program = chain_of_thought(benchmark.template, demonstrations, benchmark.rule)
    params = program.init(None, scripted.language)
    found, _ = evaluate(benchmark, program, params, scripted.language, rows)
    return found


PROBLEM = {"question": "How many?", "steps": "2 and 3.\n\nFive.", "answer": "5"}


def test_a_problem_end_to_end():
    benchmark = gsm8k_benchmark()
    prompts = []

    def answer(request):
        prompts.append(request)
        return " It is 3 + 2. So the answer is 5.0."

    scripted = Scripted(answer)
    shown = [benchmark.demonstration(PROBLEM)]
    program = chain_of_thought(benchmark.template, shown, benchmark.rule)
    params = program.init(None, scripted.language)
    rows = [{**PROBLEM, "question": "And now?"}]
    found, answers = evaluate(benchmark, program, params, scripted.language, rows)
    assert found == Score(1, 1) and answers[0].value == 5
    assert prompts[0].prompt == (
        "Q: How many?\nA: 2 and 3.\nFive.\nSo the answer is 5.\n\nQ: And now?\nA:"
    )
    assert prompts[0].stop == ("\n\n",)


def test_a_program_cannot_see_the_right_answer():
    benchmark = gsm8k_benchmark()
    leaky = benchmark._replace(template="{answer}? {question} {solution}")
    program = chain_of_thought(leaky.template, [], leaky.rule)
    scripted = Scripted(lambda request: "")
    params = program.init(None, scripted.language)
    with pytest.raises(ValueError, match=r"\['answer'\] are missing"):
        evaluate(leaky, program, params, scripted.language, [PROBLEM])


@pytest.mark.parametrize(
    "task, gold, wrong, unparsable",
    [
        ("snarks", "(A)", "(B)", "(A) or (B)"),
        ("navigate", "Yes", "No", "perhaps"),
        ("boolean_expressions", "False", "True", "false or true"),
        ("formal_fallacies", "invalid", "valid", "not valid"),
        ("object_counting", "-8", "8", "many"),
        ("word_sorting", "ant bee cow", "ant cow bee", ""),
        ("dyck_languages", "] ) }", "] ) )", ""),
        ("movie_recommendation", "Monsters, Inc", "(A)", "(A) (B)"),
    ],
)
def test_rules_of_the_tasks(task, gold, wrong, unparsable):
    benchmark, rows = bbh_benchmark(task), [{"question": "?", "answer": gold}]
    say = lambda text: lambda row: f" I think. So the answer is {text}."
    assert scored(benchmark, rows, say(gold)) == Score(1, 1)
    assert scored(benchmark, rows, say(wrong)) == Score(1, 0)
    assert scored(benchmark, rows, say(unparsable)) == Score(1, 0, unparsable=1)
    assert scored(benchmark, rows, lambda row: gold) == Score(1, 0, unparsable=1)
    cut = lambda row: Completion(say(gold)(row), "length")
    assert scored(benchmark, rows, cut) == Score(1, 0, truncated=1)


def written(benchmark):
    return lambda row: " " + benchmark.demonstration(row)["answer"]


def spoiled(row):
    """Another answer of the same kind."""
    gold = row["answer"]
    if re.fullmatch(r"\([A-Z]\)", gold):
        other = "(A)" if gold != "(A)" else "(B)"
    elif re.fullmatch(r"-?[\d,]+", gold):
        other = str(int(gold.replace(",", "")) + 1)
    else:
        swap = ["yes", "no"], ["true", "false"], ["valid", "invalid"]
        pairs = {a: b for x, y in swap for a, b in ((x, y), (y, x))}
        other = pairs.get(gold.lower(), gold + " <")
    return f" So the answer is {other}."


@pytest.mark.verify
def test_all_problems_of_gsm8k():
    benchmark, found = gsm8k_benchmark(), gsm8k()
    rows, shown = list(found.test), found.train[:2]
    say = written(benchmark)
    assert scored(benchmark, rows, say, shown) == Score(1319, 1319)
    assert scored(benchmark, rows, spoiled, shown) == Score(1319, 0)
    bare = lambda row: f" {row['answer']}"
    assert scored(benchmark, rows, bare, shown) == Score(1319, 0, unparsable=1319)
    cut = lambda row: Completion(say(row), "length")
    assert scored(benchmark, rows, cut, shown) == Score(1319, 0, truncated=1319)


def apart(rows):
    """The rows in lists in which no question stands twice."""
    first = {row["question"]: row for row in reversed(rows)}
    again = [row for row in rows if row is not first[row["question"]]]
    return [list(first.values()), again] if again else [rows]


@pytest.mark.verify
def test_all_items_of_big_bench_hard():
    """Two questions stand there twice, with "No" once and "Yes" once: who answers both
    alike, as every greedy model does, is wrong on one of each."""
    right, wrong, once = Score(0, 0), Score(0, 0), 0
    for task in bbh_tasks():
        benchmark, rows = bbh_benchmark(task), list(bbh(task).test)
        say, shown = written(benchmark), rows[-2:]
        for part in apart(rows):
            right = add(right, scored(benchmark, part, say, shown))
            wrong = add(wrong, scored(benchmark, part, spoiled, shown))
        once += scored(benchmark, rows, say, shown).correct
    assert right == Score(6511, 6511)
    assert wrong == Score(6511, 0)
    assert once == 6509


def add(a, b):
    return Score(*map(sum, zip(a, b, strict=True)))
