"""The commands, one module each. `add(subparsers)` declares a command; `run(args)` runs it and returns the exit code.

To add a command, write its module and list it in `stream_app.cli.main.COMMANDS`. Import slow modules inside `run`, so
that `--help` stays fast.
"""
