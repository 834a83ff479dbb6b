"""Supervised training: images, polynomials, algorithms; one model on one device."""
