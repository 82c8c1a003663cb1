"""The result cache: in memory or in Redis, and the task that fills it."""
