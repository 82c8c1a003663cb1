"""Overrides of Faust 0.15.3, one module a fix.

Each module says what upstream does wrong, which test shows it, and when the fix can go. `app.py`, `consumer.py` and
`consumer_thread.py` combine the fixes. `tests/unit/kafka/test_faust_pins.py` pins the source of every function that the
fixes override or rely on.
"""
