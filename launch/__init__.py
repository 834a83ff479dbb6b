"""The commands. `python -m launch.<name> --help` explains each."""
