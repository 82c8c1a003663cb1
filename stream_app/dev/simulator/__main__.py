"""`python -m stream_app.dev.simulator`: the simulator without the rest of the command line."""

import argparse
import sys

from stream_app.dev.simulator import add_arguments, run

parser = argparse.ArgumentParser(prog="python -m stream_app.dev.simulator", description="A simulated Clay.")
add_arguments(parser)
sys.exit(run(parser.parse_args()))
