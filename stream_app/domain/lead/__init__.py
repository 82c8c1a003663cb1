"""A lead from the bytes of its record to a resolved destination and identity."""
