"""The commands, one module each; small ones share one. Their docstrings are their help pages.

Commands share `base`, `options`, `files`, `progress`, `tables` and `help`. `lane_commands` and `lane_tables` are for
the commands about lanes, `replay_order` and `sending` for those about dead letters.

To add a command, write its function and list it in `stream_app.cli.main.COMMANDS`. A command returns its exit code.
"""
