"""The composition roots: each builds one process from the settings."""
