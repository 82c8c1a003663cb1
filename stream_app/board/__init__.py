"""The board: the read model as web pages, served by the gateway. Read only."""
