"""Delivers leads over requests in threads, with tenacity and a lock that spaces the calls."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import requests
from requests.adapters import HTTPAdapter
from tenacity import (
    RetryError,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential_jitter,
)

IN_FLIGHT = int(os.environ["IN_FLIGHT"])
_RATE_PER_S = float(os.environ["RATE_PER_S"])
_URL = os.environ["URL"]


class NotTaken(Exception):
    """The API was busy or is not there: try again later."""


class Delivery:
    """Posts a lead at the rate, retries it, and passes it to `dead_letter` in the end.

    For many threads.
    """

    def __init__(self, dead_letter: Callable[[bytes], object]) -> None:
        self._dead_letter = dead_letter
        self._session = requests.Session()
        self._session.mount("http://", HTTPAdapter(pool_connections=1, pool_maxsize=IN_FLIGHT))
        self._lock = threading.Lock()
        self._next_s = 0.0

    def __call__(self, lead: bytes) -> None:
        attempts = Retrying(
            stop=stop_after_attempt(6),
            wait=wait_exponential_jitter(initial=0.5, max=10),
            retry=retry_if_exception_type((NotTaken, requests.ConnectionError, requests.Timeout)),
        )
        try:
            for attempt in attempts:
                with attempt:
                    self._post(lead)
        except RetryError:
            self._dead_letter(lead)

    def _post(self, lead: bytes) -> None:
        if _RATE_PER_S:
            with self._lock:
                self._next_s = max(self._next_s + 1 / _RATE_PER_S, time.monotonic())
                turn_s = self._next_s
            time.sleep(max(0.0, turn_s - time.monotonic()))
        answer = self._session.post(
            _URL,
            data=lead,
            headers={"content-type": "application/json"},
            timeout=30,
        )
        if answer.status_code == 429 or answer.status_code >= 500:
            raise NotTaken(answer.status_code)
        answer.raise_for_status()
