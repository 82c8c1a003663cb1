"""Logs, metrics, health and the watchdog of a process."""
