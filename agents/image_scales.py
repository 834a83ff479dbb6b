"""How the pixels of each data set are scaled: (pixel / 255 - mean) / deviation."""

SCALES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    # The supervised task leaves MNIST's pixels in [0, 1].
    "mnist": ((0.0,), (1.0,)),
    # The continual benchmark and the released code pad MNIST to 32 x 32, which changes its mean and deviation.
    "mnist, padded": ((0.1000,), (0.2752,)),
    # The released code's.
    "cifar10": ((0.491, 0.482, 0.447), (0.247, 0.243, 0.262)),
    "cifar100": ((0.507, 0.487, 0.441), (0.267, 0.256, 0.276)),
}
"""Mean and standard deviation of each channel, by data set."""
