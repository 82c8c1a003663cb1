"""Pure decisions: no I/O, no clock, no randomness.

Imports only the standard library and msgspec.
"""
