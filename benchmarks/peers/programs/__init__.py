"""One program a system.

Each runs in an environment of its own, with the libraries that `systems.py` names.

All get the same settings from the environment: BOOTSTRAP, LEADS and BULK (topics), DLQ (topic),
GROUP, URL, IN_FLIGHT, RATE_PER_S (0: no limit) and SESSION_MS. One whose system has a server also
gets SERVER (the URL of its admin API) and PORT, on which it serves its handlers. Each retries a
lead that was not taken and gives it to the DLQ in the end.
"""
