"""Alerts by webhook, without Prometheus: conditions over the processes' metrics, and messages."""
