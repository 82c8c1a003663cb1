"""Which secrets are easy to guess."""

import pytest

from stream_app.domain.model.addresses import secret_problem

GOOD = "q7Zk2VwX9mTfR4hLs8BnYc3JdPgA6uEe"


def test_a_drawn_secret_is_good() -> None:
    assert len(GOOD) == 32
    assert secret_problem(GOOD) is None


@pytest.mark.parametrize(
    "secret",
    [
        GOOD[:16] * 2,
        GOOD[:11] * 2 + GOOD[:10],
        "abcdefghijklmnopqrstuvwxyz012345",
        "9876543210zyxwvutsrqponmlkjihgfe",
        # Of 32 characters, 17 follow a neighbour of theirs.
        "abcdefghijklmnopqr" + GOOD[1:15],
    ],
)
def test_a_secret_that_repeats_itself_or_follows_the_alphabet_is_easy_to_guess(secret: str) -> None:
    assert len(secret) == 32
    assert "is easy to guess" in str(secret_problem(secret))


def test_half_a_run_is_not_easy_to_guess() -> None:
    assert secret_problem("abcdefghijklmnopq" + GOOD[1:16]) is None
