"""Replays of dead letters: by the replay process itself, and as an operator orders them."""
