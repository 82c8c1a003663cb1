"""The commands, one module each; small ones share one. Their docstrings are their help pages.

To add a command, write its function and list it in `stream_app.cli.main.COMMANDS`. A command returns its exit code.
"""
