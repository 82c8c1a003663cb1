"""Measurements. `docs/figures.md` has a command and the figures that were seen for each."""

import os

# A benchmark starts processes as they are installed: with byte code, not compiled again at each
# start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
