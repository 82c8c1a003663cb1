"""The gateway: receives Clay's callbacks over HTTP.

`receiver` shows the whole way and builds the application.
"""
