"""Replays of dead letters.

The replay process: `agents` receives records, `forward` sends them back when they are due, `runner` carries out what
operators order, `state` is what all replay processes share. `stream-app replay` and the board: `plan` prices a replay,
`order` submits it. `stream-app dlq`: `inspect` reads dead letters. All that operators order is
sent by `send`.
"""
