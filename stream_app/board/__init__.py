"""The board: the read model as web pages, and as the look-up API."""
