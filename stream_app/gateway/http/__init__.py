"""The gateway's HTTP/1.1 server for ASGI apps."""
