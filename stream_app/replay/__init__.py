"""Replays of dead letters: the replay process, and what `stream-app replay ACTION` and `stream-app dlq` do."""
