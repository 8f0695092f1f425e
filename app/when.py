"""Times for people: how a moment in the past is named in a list."""

import time


def named(moment: float, now: float) -> str:
    """`10:22` today, `yesterday`, `Tue` within the week, `3 Mar` within the year, else `2025-03-03`; in local time."""
    then, today = time.localtime(moment), time.localtime(now)
    days = _day(today) - _day(then)
    if days <= 0:
        return time.strftime("%H:%M", then)
    if days == 1:
        return "yesterday"
    if days < 7:
        return _DAYS[then.tm_wday]
    if then.tm_year == today.tm_year or days < 180:
        return f"{then.tm_mday} {_MONTHS[then.tm_mon - 1]}"
    return time.strftime("%Y-%m-%d", then)


def _day(moment: time.struct_time) -> int:
    """Days since some day long ago, by the calendar."""
    return int(time.mktime((moment.tm_year, moment.tm_mon, moment.tm_mday, 12, 0, 0, 0, 0, -1)) // 86400)


# Not strftime's: names must not depend on the machine's language, the rest of the app being English.
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
