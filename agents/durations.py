"""Durations as people read them."""


def clock(seconds: float | None) -> str:
    """Returns a duration as in 1:02:03, or - for None."""
    if seconds is None:
        return "-"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
