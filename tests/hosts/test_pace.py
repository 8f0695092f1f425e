"""How long work may take before the link counts as stalled."""

import pytest

from gptoss_mlx.hosts.pace import FIRST_SECONDS, SLACK, Pace


def test_the_first_work_may_take_long() -> None:
    assert Pace(10.0).limit_seconds(1) == FIRST_SECONDS
    assert Pace(500.0).limit_seconds(1) == 500.0


def test_quick_work_is_given_no_more_than_the_patience() -> None:
    pace = Pace(10.0)
    pace.took(1, 0.02)
    pace.took(512, 2.0)
    assert (pace.limit_seconds(1), pace.limit_seconds(512)) == (10.0, 10.0)


def test_a_size_that_was_not_there_goes_by_the_smaller_one() -> None:
    pace = Pace(10.0)
    pace.took(32, 1.0)
    assert pace.limit_seconds(512) == pytest.approx(SLACK * 16)
    pace.took(512, 8.0)
    assert pace.limit_seconds(512) == pytest.approx(SLACK * 8)
    assert pace.limit_seconds(32) == 10.0


def test_slow_work_counts_at_once_and_quick_work_little_by_little() -> None:
    pace = Pace(1.0)
    pace.took(100, 1.0)
    pace.took(100, 5.0)
    assert pace.limit_seconds(100) == pytest.approx(SLACK * 5)
    pace.took(100, 1.0)
    assert SLACK * 4 < pace.limit_seconds(100) < SLACK * 5
    for _ in range(100):
        pace.took(100, 1.0)
    assert pace.limit_seconds(100) == pytest.approx(SLACK, rel=0.01)
