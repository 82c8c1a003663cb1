"""The commands, one module a group of commands. Their docstrings are their help pages.

Commands share `base`, `options`, `files` and `tables`.

To add a command, write its function and list it in `stream_app.cli.main.COMMANDS`. A command
returns its exit code.
"""
