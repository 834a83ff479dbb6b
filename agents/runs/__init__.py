"""Keeps a run on disk: its folder, checkpoints, curves and evaluations."""
