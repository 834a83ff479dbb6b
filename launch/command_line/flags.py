"""What was typed on a command line, apart from what it means."""

from collections.abc import Collection, Sequence

from neurocoder.settings import SETTINGS


def given_flags(argv: Sequence[str]) -> list[str]:
    """Returns the flags on a command line in their long form, each once: "--learning-rate" for "--learning_rate=0.1"."""
    flags = (argument.partition("=")[0] for argument in argv if argument.startswith("--"))
    return list(dict.fromkeys(flag.replace("_", "-") for flag in flags))


def refuse_unused_layers(argv: Sequence[str], layers: Collection[str]) -> None:
    """Raises ValueError if a setting is given for a layer that is not among `layers`, where it would have no effect."""
    used = {"neurocoder" if layer == "lowrank" else layer for layer in layers}
    for flag in given_flags(argv):
        group = flag.removeprefix("--").partition(".")[0]
        if group in SETTINGS and group not in used and "." in flag:
            raise ValueError(
                f"{flag} is a setting of {group}, but the layer is {', '.join(layers)}; leave it out"
            )
