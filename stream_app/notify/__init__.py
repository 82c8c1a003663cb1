"""Alerts by webhook, without Prometheus.

`samples` keeps what the processes' metrics say, `conditions` says what is wrong in the forms of `expressions`, `watch`
which alerts fire, `outbox` when to send a message, `messages` its body; `receiver` posts it.
"""
