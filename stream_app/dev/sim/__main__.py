"""`python -m stream_app.dev.sim`: the simulator without the rest of the command line."""

import argparse
import sys

from stream_app.dev.sim import add_arguments, run

parser = argparse.ArgumentParser(prog="python -m stream_app.dev.sim", description="A simulated Clay.")
add_arguments(parser)
sys.exit(run(parser.parse_args()))
