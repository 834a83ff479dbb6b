"""How a setting is called on the command line."""


def flag(name: str) -> str:
    """Returns the command-line flag of a setting: "--rollout-steps" for "rollout_steps"."""
    return "--" + name.replace("_", "-")
