"""The gateway: receives Clay's callbacks and serves the look-up API over HTTP."""
