"""Seeds made of several numbers, such as a run's seed and a step."""

import hashlib


def mixed_seed(*parts: int | str) -> int:
    """Returns a seed that depends on all parts. It has 32 bits, because torch's generator on the CPU ignores more."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=4).digest(), "big")
