"""The commands. `python -m launch.<name> --help` explains each."""

import sys

from launch.experiments.interruption import stop_at_once

# So it is while Python looks for the module of a command. Its imports take seconds, in which Ctrl-C may come.
if sys.argv[0] == "-m":
    stop_at_once()
