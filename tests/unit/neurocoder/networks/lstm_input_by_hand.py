"""What an LSTM sees of features, by its formula."""

from torch import Tensor


def normalised(features: Tensor) -> Tensor:
    """Features (..., F) with zero mean and unit deviation each, of the same shape."""
    centred = features - features.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
