"""How moments are named in lists."""

import calendar
import time

import pytest

from gptoss_mlx.app.when import named


@pytest.fixture(autouse=True)
def _in_berlin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()


def moment(text: str) -> float:
    """Local time in Berlin, in winter."""
    return calendar.timegm(time.strptime(text, "%Y-%m-%d %H:%M")) - 3600


NOW = moment("2026-03-17 00:30")


@pytest.mark.parametrize(
    ("then", "name"),
    [
        ("2026-03-17 00:29", "00:29"),
        ("2026-03-17 00:31", "00:31"),  # by a clock that was wrong
        ("2026-03-16 23:59", "yesterday"),
        ("2026-03-15 23:59", "Sun"),
        ("2026-03-11 00:00", "Wed"),
        ("2026-03-10 23:59", "10 Mar"),
        ("2025-12-31 12:00", "31 Dec"),
        ("2025-06-01 12:00", "2025-06-01"),
    ],
)
def test_a_moment_is_named_as_people_would(then: str, name: str) -> None:
    assert named(moment(then), NOW) == name
