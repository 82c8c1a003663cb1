"""The gateway: receives Clay's callbacks over HTTP.

`receiver` shows the whole way, `callback_answers` has the texts, `asgi` is the application.
"""
