"""Plans that are balanced, figures that are published elsewhere, and reports that say what was answered."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import emorig_diffusers
from emorig_diffusers.evaluation.study import plan
from emorig_diffusers.evaluation.study.plan import Design, Question, build_deck, plan_questions
from emorig_diffusers.evaluation.study.report import preferred, summarise, write_markdown
from emorig_diffusers.evaluation.study.statistics import (
    bootstrap_strengths,
    bradley_terry,
    krippendorff_alpha,
    wilson_interval,
)
from emorig_diffusers.evaluation.study.store import Answer, Store

METHODS = ("ours", "rival", "third")
PHOTOS = {"happy": [f"{i}.png" for i in range(7)], "fear": [f"{i}.png" for i in range(5)]}
DESIGN = Design(METHODS, PHOTOS, person=True, questions=30, seed=3)


# plan


def test_emotions_are_the_packages() -> None:
    assert plan.EMOTIONS == emorig_diffusers.EMOTIONS


def test_plans_depend_on_seed_and_number_only() -> None:
    assert plan_questions(DESIGN, 4) == plan_questions(DESIGN, 4)
    assert plan_questions(DESIGN, 4) != plan_questions(DESIGN, 6)
    other = Design(METHODS, PHOTOS, person=True, questions=30, seed=4)
    assert plan_questions(DESIGN, 4) != plan_questions(other, 4)


def test_every_participant_gets_every_kind_in_a_block_with_checks() -> None:
    orders = set()
    for number in range(6):
        questions = plan_questions(DESIGN, number)
        real = [q for q in questions if q.check is None]
        assert Counter(q.kind for q in real) == {"real": 10, "person": 10, "emotion": 10}
        assert Counter(q.kind for q in questions if q.check) == {"real": 1, "person": 1, "emotion": 1}
        assert len(set(real)) == 30
        kinds = [q.kind for q in questions]
        orders.add(tuple(dict.fromkeys(kinds)))
        assert sum(a != b for a, b in zip(kinds, kinds[1:])) == 2  # three blocks
    assert len(orders) == 6


def test_all_pictures_and_sides_come_equally_often() -> None:
    deck = build_deck(DESIGN, "real")
    assert len(deck) == len({(q.photo, q.emotion, frozenset(q.methods)) for q in deck}) == 3 * (7 + 5)
    asked: Counter[tuple] = Counter()
    sides: Counter[str] = Counter()
    for number in range(72):  # 36 windows of 10 are 10 times the deck
        for question in plan_questions(DESIGN, number):
            if question.kind == "real" and question.check is None:
                asked[question.photo, question.emotion, *question.methods] += 1
                sides[question.methods[0]] += 1
    assert set(asked.values()) == {10}
    assert len(asked) == 2 * len(deck)
    assert set(sides.values()) == {240}


def test_one_participant_sees_each_method_on_both_sides() -> None:
    for number in range(6):  # the next ones go on at the beginning of the deck
        asked = [q for q in plan_questions(DESIGN, number) if q.kind == "person" and q.check is None]
        strata = Counter((q.emotion, frozenset(q.methods)) for q in asked)
        assert len(strata) == 6
        assert max(strata.values()) <= 3
        for emotion, pair in strata:
            left = Counter(q.methods[0] for q in asked if q.emotion == emotion and set(q.methods) == pair)
            assert max(left.values()) - min(left[method] for method in pair) <= 1


def test_a_pair_of_participants_judges_the_same_pictures_with_sides_exchanged() -> None:
    first, second = ({q for q in plan_questions(DESIGN, n) if q.kind == "real" and not q.check} for n in (2, 3))
    assert first == {Question(q.kind, q.photo, q.emotion, q.methods[::-1]) for q in second}


def test_few_pictures_are_asked_once() -> None:
    small = Design(("a", "b"), {"sad": ["0.png"]}, person=True, questions=60, seed=0)
    questions = [q for q in plan_questions(small, 5) if not q.check]
    assert Counter(q.kind for q in questions) == {"real": 1, "person": 1, "emotion": 2}


def test_kinds_follow_from_what_there_is() -> None:
    assert Design(("a", "b"), PHOTOS, person=False, questions=6, seed=0).kinds == ("real", "emotion")
    alone = Design(("a",), PHOTOS, person=True, questions=6, seed=0)
    assert {q.kind for q in plan_questions(alone, 0)} == {"emotion"}
    assert sum(q.check is None for q in plan_questions(alone, 0)) == 6


def test_checks_have_one_right_answer_that_shows() -> None:
    for number in range(20):
        for question in plan_questions(DESIGN, number):
            if question.check is not None:
                assert question.check in question.answers
                assert len(set(question.methods)) == 1
                assert question.check != question.emotion


# statistics


def test_bradley_terry_of_the_american_league() -> None:
    """Home and away games of 1987; Agresti, Categorical Data Analysis (2nd edition), section 10.6."""
    wins = np.array(
        [
            [0, 7, 9, 7, 7, 9, 11],
            [6, 0, 7, 5, 11, 9, 9],
            [4, 6, 0, 7, 7, 8, 12],
            [6, 8, 6, 0, 6, 7, 10],
            [6, 2, 6, 7, 0, 7, 12],
            [4, 4, 5, 6, 6, 0, 6],
            [2, 4, 1, 3, 1, 7, 0],
        ]
    )
    scores = bradley_terry(wins, prior=0)
    published = [1.58, 1.44, 1.29, 1.25, 1.11, 0.68, 0.0]  # against Baltimore
    np.testing.assert_allclose(scores - scores[-1], published, atol=0.006)
    assert abs(scores.sum()) < 1e-9


def test_bradley_terry_of_two_is_the_log_odds() -> None:
    scores = bradley_terry(np.array([[0, 30], [10, 0]]), prior=0)
    np.testing.assert_allclose(scores[0] - scores[1], np.log(3))


def test_a_method_that_always_wins_has_a_finite_score_that_grows() -> None:
    few, many = (bradley_terry(np.array([[0, n], [0, 0]])) for n in (5, 50))
    np.testing.assert_allclose(few[0] - few[1], np.log(5.5 / 0.5))
    np.testing.assert_allclose(many[0] - many[1], np.log(50.5 / 0.5))
    np.testing.assert_allclose(bradley_terry(np.zeros((3, 3))), 0)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    rng, hits = np.random.default_rng(0), 0
    for seed in range(60):
        won = rng.binomial(20, 0.7, 25)
        wins = np.zeros((25, 2, 2))
        wins[:, 0, 1], wins[:, 1, 0] = won, 20 - won
        low, high = bootstrap_strengths(wins, seed)
        hits += low[0] <= np.log(0.7 / 0.3) / 2 <= high[0]
    assert 0.85 <= hits / 60 <= 1
    assert high[0] - low[0] < 0.3  # the true width is 0.19
    assert bootstrap_strengths(wins[:1]) is None


@pytest.mark.parametrize(
    ("hits", "trials", "interval"),
    [(81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0, 0.1611)), (1, 29, (0.0061, 0.1718))],
)
def test_wilson_intervals_of_newcombe(hits: int, trials: int, interval: tuple[float, float]) -> None:
    """Newcombe, Statistics in Medicine 17 (1998), table I, method 3."""
    np.testing.assert_allclose(wilson_interval(hits, trials), interval, atol=5e-5)


def test_wilson_interval_of_nothing_is_everything() -> None:
    assert wilson_interval(0, 0) == (0, 1)


@pytest.mark.parametrize(
    ("observers", "alpha"),
    [
        (["0100000010", "1110010000"], 0.095),
        (["aabbdcccedda", "babbbccceddd"], 0.692),
        (["123321412...", "1233224125.3", ".3332342251.", "12332441251."], 0.743),
    ],
)
def test_alpha_of_krippendorffs_examples(observers: list[str], alpha: float) -> None:
    """Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), examples A, B and C; a dot is missing."""
    units = [[label for label in labels if label != "."] for labels in zip(*observers, strict=True)]
    assert krippendorff_alpha(units) == pytest.approx(alpha, abs=6e-4)


def test_alpha_without_pairs_or_variation_is_not_defined() -> None:
    assert krippendorff_alpha([["a"], ["b"]]) is None
    assert krippendorff_alpha([["a", "a"], ["a", "a"]]) is None
    assert krippendorff_alpha([["a", "a"], ["b", "b"]]) == 1


# report


def answer_all(store: Store, who: str, careless: bool = False, stop: int | None = None) -> None:
    """Prefers earlier METHODS, sees every "happy" and takes "fear" for "surprise"; who is careless fails checks."""
    store.join(who, lambda number: plan_questions(DESIGN, number))
    for _ in range(stop or DESIGN.questions + 3):
        position, question = store.next_question(who)
        if question.kind == "emotion":
            answer = {"happy": "happy", "fear": "surprise"}[question.emotion]
        else:
            answer = "left" if METHODS.index(question.methods[0]) < METHODS.index(question.methods[1]) else "right"
        if question.check is not None:
            answer = next(a for a in question.answers if (a != question.check) == careless)
        store.record(who, position, answer, 2.0 + position % 2)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    settings = {"edited": dict.fromkeys(METHODS, "somewhere"), "left_out": ["happy/x.png: not in third"]}
    return Store.create(tmp_path / "study", settings)


def test_report_counts_those_who_finished_and_paid_attention(store: Store) -> None:
    answer_all(store, "a")
    answer_all(store, "b")
    answer_all(store, "careless", careless=True)
    answer_all(store, "left", stop=12)
    summary = summarise(store)
    people = summary["participants"]
    assert [people[key] for key in ("agreed", "finished", "excluded", "counted")] == [4, 3, 1, 2]
    for kind in ("real", "person"):
        figures = summary["comparisons"][kind]
        assert figures["answers"] == 20
        scores = figures["scores"]
        assert scores["ours"]["score"] > scores["rival"]["score"] > scores["third"]["score"]
        assert all(own["low"] <= own["score"] <= own["high"] for own in scores.values())
        assert figures["alpha"] == 1
        asked = Counter(tuple(sorted(q.methods)) for q in plan_questions(DESIGN, 0) if q.kind == kind and not q.check)
        for (better, worse), times in asked.items():  # METHODS are in alphabetic order
            assert figures["wins"][better][worse] == 2 * times
            assert figures["wins"][worse][better] == 0
    found = summary["identification"]
    assert found["answers"] == 20
    assert found["alpha"] == 1
    for method in METHODS:
        rates, row = found["accuracy"][method], found["confusion"][method]
        assert rates["happy"]["rate"] == 1
        assert rates["fear"]["rate"] == 0
        assert row["fear"]["surprise"] == rates["fear"]["of"] > 0
        assert rates["all"]["of"] == rates["happy"]["of"] + rates["fear"]["of"]
        assert (rates["all"]["low"], rates["all"]["high"]) == wilson_interval(rates["happy"]["of"], rates["all"]["of"])
    assert all(2 <= times["median"] <= 3 for times in summary["seconds"].values())
    text = write_markdown(summary)
    assert "| ours | +" in text
    assert "75%" in text
    assert "happy/x.png: not in third" in text


def test_report_of_one_participant_has_no_intervals(store: Store) -> None:
    answer_all(store, "a")
    summary = summarise(store)
    assert summary["comparisons"]["real"]["scores"]["ours"]["low"] is None
    assert summary["comparisons"]["real"]["alpha"] is None
    assert "needs two participants" in write_markdown(summary)


def test_report_before_the_first_answer(store: Store) -> None:
    summary = summarise(store)
    assert summary["participants"]["agreed"] == 0
    assert "No answers can be counted yet." in write_markdown(summary)


def test_preferred_follows_the_side() -> None:
    question = Question("real", "0.png", "happy", ("ours", "rival"))
    assert preferred(Answer(question, "left", 1)) == ("ours", "rival")
    assert preferred(Answer(question, "right", 1)) == ("rival", "ours")
