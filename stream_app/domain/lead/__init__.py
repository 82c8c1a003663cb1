"""A lead from the bytes of its record to cleaned fields and the identity of its person."""
