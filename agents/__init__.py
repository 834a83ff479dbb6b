"""How networks learn.

`load_policy` gives a trained policy to play with, `train` trains one. Each is loaded at first use, since torch
takes seconds.
"""

import os
from typing import TYPE_CHECKING, Any

# In a container the user may have no account, and so no home. Parts of Ray look for one when they are imported.
if os.path.expanduser("~") == "~":
    os.environ["HOME"] = "/"

if TYPE_CHECKING:
    from agents.runs.policy import load_policy
    from agents.runs.training import train


def __getattr__(name: str) -> Any:
    match name:
        case "load_policy":
            from agents.runs.policy import load_policy

            return load_policy
        case "train":
            from agents.runs.training import train

            return train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["load_policy", "train"]
