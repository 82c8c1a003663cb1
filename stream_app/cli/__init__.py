"""The commands, a module each: `add(subparsers)` declares it, `run(args)` does it and returns the exit code.

To add one: write the module, and name it in `stream_app.cli.main.COMMANDS`. Heavy imports belong into `run`, so that
`--help` answers at once.
"""
