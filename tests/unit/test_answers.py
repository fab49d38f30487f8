"""The judge of the acceptance test of the cache, `tests.acceptance.answers`, on histories made by hand."""

from dataclasses import replace
from typing import Final

import pytest

from tests.acceptance.answers import NONE, Answer, Completed, History, Trouble

OLD: Final = Answer(
    service="here",
    report="volume",
    question="volume?limit=1",
    subject="day",
    asked_at=1,
    told_at=2,
    status=200,
    tag='W/"4-volume"',
    source="redis",
    rows="[1]",
    generation=1,
)
NEW: Final = replace(OLD, asked_at=5, told_at=6, tag='W/"5-volume"', rows="[2]", generation=2)
COMPLETED: Final = [Completed("day", 1, told_at=0.5), Completed("day", 2, told_at=4)]


def at(answer: Answer, asked_at: float) -> Answer:
    """The same answer at another time."""
    return replace(answer, asked_at=asked_at, told_at=asked_at + 1)


def meanings(*answers: Answer, troubles: tuple[Trouble, ...] = ()) -> set[str]:
    """What is complained of, without the details."""
    complaints = History(list(answers), COMPLETED, list(troubles)).complaints()
    return {complaint.partition(":")[0] for complaint in complaints}


def test_nothing_is_wrong_with_an_old_answer_before_and_a_new_one_after_completion() -> None:
    assert meanings(OLD, NEW, replace(NEW, service="there")) == set()


def test_a_question_that_was_under_way_at_completion_may_get_the_old_answer() -> None:
    assert meanings(replace(OLD, asked_at=3.9, told_at=9)) == set()


def test_an_answer_newer_than_the_run_is_not_stale() -> None:
    assert meanings(at(replace(NEW, tag='W/"6-volume"', rows="[3]", generation=3), 4.5)) == set()


@pytest.mark.parametrize("status", [200, 304])
def test_an_old_answer_after_completion_is_stale(status: int) -> None:
    assert meanings(replace(at(OLD, 4.1), status=status)) == {"stale"}


def test_completion_of_another_subject_makes_nothing_stale() -> None:
    assert meanings(replace(at(OLD, 4.1), subject="another day")) == set()


def test_a_degraded_answer_may_be_old_but_has_no_tag() -> None:
    degraded = replace(at(OLD, 9), degraded=True, tag=None)
    assert meanings(degraded) == set()
    assert meanings(replace(degraded, tag=OLD.tag)) == {"degraded, and yet to be kept"}


@pytest.mark.parametrize("degraded", [False, True])
def test_rows_of_no_generation_are_mixed(*, degraded: bool) -> None:
    tag = None if degraded else OLD.tag
    assert meanings(replace(OLD, generation=None, degraded=degraded, tag=tag)) == {"mixed"}


def test_a_tag_must_not_stand_for_two_answers_of_any_process() -> None:
    other_rows = replace(OLD, service="there", rows="[2]", generation=2)
    assert meanings(OLD, other_rows) == {"two answers under one tag"}
    assert meanings(OLD, replace(OLD, service="there", question="volume?limit=2")) == {"two answers under one tag"}


def test_a_process_must_not_tell_of_an_older_version_than_before() -> None:
    ahead = replace(NEW, asked_at=1, told_at=2)
    assert meanings(ahead, at(OLD, 2.5)) == {"a version went back"}
    assert meanings(ahead, replace(at(OLD, 2.5), service="there")) == set(), "another process may be behind"
    assert meanings(ahead, at(OLD, 1.5)) == set(), "both were under way at once"


@pytest.mark.parametrize("status", [503, NONE])
def test_a_failure_is_for_those_in_trouble(status: int) -> None:
    failure = replace(OLD, status=status, tag=None, rows=None, generation=None)
    assert meanings(failure) == {"no answer, and no trouble"}
    assert meanings(failure, troubles=(Trouble("there", began=0),)) == {"no answer, and no trouble"}
    assert meanings(failure, troubles=(Trouble("here", began=2.1),)) == {"no answer, and no trouble"}
    assert meanings(failure, troubles=(Trouble("here", began=0, ended=0.9),)) == {"no answer, and no trouble"}
    assert meanings(failure, troubles=(Trouble("here", began=1.5),)) == set()


def test_no_trouble_excuses_a_defect() -> None:
    defect = replace(OLD, status=500, tag=None, rows=None, generation=None)
    assert meanings(defect, troubles=(Trouble("here", began=0),)) == {"no answer, and no trouble"}


def test_answers_are_counted_by_what_they_exercise() -> None:
    answers = [OLD, NEW, replace(OLD, degraded=True), replace(OLD, status=304), replace(OLD, status=503)]
    assert History(answers).kinds("here") == {"redis": 2, "degraded, redis": 1, "not modified": 1, "503": 1}
