"""Callbacks of Clay: the body, what a callback means, and what a missing one means."""
