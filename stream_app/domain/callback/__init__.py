"""Callbacks of Clay: the token, the body, what a callback means, and what a missing one means."""
