"""Checks of a layer's settings: errors that name the setting, its value and what it may be."""


def check_sizes(**sizes: int | None) -> None:
    """ValueError for a size below 1. None stands for a part that is left out."""
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise ValueError(f"{name} is {size}; it must be at least 1")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """ValueError for a value that is not one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, choices))}")
