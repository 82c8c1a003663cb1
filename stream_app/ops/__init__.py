"""Logs and metrics of a process, and the HTTP server that shows them."""
