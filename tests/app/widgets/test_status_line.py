"""The status line: what it says, and what it gives up when there is little room."""

from dataclasses import replace

import pytest

from gptoss_mlx.app.widgets.status_line import Status, render_status
from gptoss_mlx.events import PromptProgress

READY = Status(
    model="gpt-oss-20b",
    session="ready",
    effort="medium",
    used=12_345,
    limit=131_072,
    tokens_per_second=43.21,
    ttft_seconds=0.456,
    memory_bytes=14 << 30,
)


def said(status: Status, width: int = 220) -> str:
    return render_status(status, width).plain


def test_with_room_it_says_everything() -> None:
    line = said(READY)
    for part in ("gpt-oss-20b", "effort medium", "12,345 of 131,072", "43.2 tok/s", "first token 0.46 s", "14.0 GiB"):
        assert part in line


def test_it_says_on_how_many_hosts_a_model_is_and_what_is_done_with_them() -> None:
    assert said(replace(READY, hosts=2)).startswith("gpt-oss-20b on 2 hosts  ·  ")
    starting = replace(READY, session="loading", starting="starting mac1, mac2")
    assert said(starting).startswith("gpt-oss-20b starting mac1, mac2  ·  ")
    assert "loading" in said(replace(starting, loading=(1, 2)))
    lost = replace(READY, hosts=2, unloaded=True)
    assert said(lost).startswith("gpt-oss-20b hosts not running")
    assert said(replace(lost, starting="starting mac1, mac2")).startswith("gpt-oss-20b starting mac1, mac2")


@pytest.mark.parametrize("width", [1, 7, 20, 33, 40, 60, 61, 79, 80, 120, 220])
@pytest.mark.parametrize(
    "status",
    [
        READY,
        Status(),
        replace(READY, model="a-model-with-a-very-long-name-that-somebody-gave-it-4bit"),
        replace(READY, reading=PromptProgress(37, 100, seconds=3.0)),
        replace(READY, session="loading", loading=(5, 9)),
        replace(READY, session="failed"),
    ],
)
def test_it_is_never_wider_than_its_place(status: Status, width: int) -> None:
    assert render_status(status, width).cell_length <= width


def test_the_less_important_goes_first() -> None:
    order = ["12,345", "14.0 GiB", "0.46 s", "━", "tok/s", "medium"]
    gone_at = {part: max(width for width in range(1, 221) if part not in said(READY, width)) for part in order}
    assert sorted(order, key=lambda part: -gone_at[part]) == order
    assert "gpt-oss-20b" in said(READY, 11)


def test_at_60_columns_model_effort_context_and_speed_are_there() -> None:
    line = said(READY, 60)
    for part in ("gpt-oss-20b", "medium", "9 %", "43.2 tok/s"):
        assert part in line


@pytest.mark.parametrize(
    ("used", "colour"),
    [(0, "primary"), (74, "primary"), (75, "warning"), (89, "warning"), (90, "error"), (120, "error")],
)
def test_the_context_changes_colour_at_75_and_90_percent(used: int, colour: str) -> None:
    content = render_status(replace(READY, used=used, limit=100), 220)
    styles = {
        str(span.style)
        for span in content.spans
        if f"{used} of 100".startswith(content.plain[span.start : span.end]) and content.plain[span.start : span.end]
    }
    assert styles == {f"$text-{colour}"}


def test_the_prompt_takes_the_place_of_the_speed_while_it_is_read() -> None:
    line = said(replace(READY, reading=PromptProgress(3_700, 10_000, seconds=3.7)))
    assert "Reading prompt 37 %, 6 s left" in line
    assert "tok/s" not in line


@pytest.mark.parametrize("reading", [(0, 0, 5.0), (0, 10, 5.0), (10, 10, 5.0), (5, 10, 0.2)])
def test_no_time_is_foretold_when_nobody_can_tell(reading: tuple[int, int, float]) -> None:
    done, total, seconds = reading
    line = said(replace(READY, reading=PromptProgress(done, total, seconds=seconds)))
    assert "Reading prompt" in line
    assert "left" not in line


def test_what_came_from_the_cache_says_nothing_of_the_speed() -> None:
    # 100 of 200 tokens in 10 s; 800 more took no time.
    line = said(replace(READY, reading=PromptProgress(900, 1000, cached=800, seconds=10.0)))
    assert "Reading prompt 90 %, 10 s left" in line


def test_a_long_prompt_is_told_in_minutes() -> None:
    assert "3 min 20 s left" in said(replace(READY, reading=PromptProgress(50, 100, seconds=200.0)))


def test_loading_is_told_by_how_much_is_read() -> None:
    line = said(Status(model="gpt-oss-20b", session="loading", loading=(999, 1000)))
    assert "gpt-oss-20b loading" in line
    # 100 % is said when it is.
    assert "99 %" in line


def test_a_model_that_failed_to_load_is_told() -> None:
    assert "could not be loaded" in said(Status(model="20b", session="failed"))


def test_nothing_is_said_of_a_context_that_nobody_knows() -> None:
    assert "context" not in said(Status(model="20b", session="loading", used=3))
