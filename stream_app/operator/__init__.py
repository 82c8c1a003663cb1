"""Lanes from the outside: what they publish, what waits for them, and commands to them."""
