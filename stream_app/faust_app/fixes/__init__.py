"""Overrides of Faust 0.15.3, one class a fix.

Each class says what upstream does wrong, which test shows it, which report in
docs/reference/upstream is ready for upstream, and when the fix can go.
`tests/upstream/test_reports.py` runs each report's program on the stock release. `safe_app.py`
combines the fixes.
`tests/unit/kafka/test_faust_pins.py` pins the source of every function that the fixes replace.
"""
