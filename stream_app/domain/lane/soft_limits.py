"""Soft limits of a budget: percentages of a cap that are reported once each on the way up."""

_SLACK_PERCENT = 10  # so far below a soft limit refunds must bring a meter before it is told again


def level(limits: tuple[int, ...], warned: int, used: int, cap: int | None) -> int:
    """Return the highest soft limit that counts as reported, until use has fallen well below it."""
    if cap is None:
        return 0
    reached, hundredfold = 0, used * 100
    for limit in limits:
        if hundredfold < limit * cap:
            break
        reached = limit
    return reached if reached > warned or hundredfold < (warned - _SLACK_PERCENT) * cap else warned
