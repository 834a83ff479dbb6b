"""Seeds made of several numbers, such as a run's seed and a step."""

import hashlib


def mixed_seed(*parts: int | str) -> int:
    """A seed of 32 bits that depends on all parts: of a larger one torch's generator on the CPU ignores the upper bits."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=4).digest(), "big")
