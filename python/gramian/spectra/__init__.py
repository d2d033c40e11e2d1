"""Where a network lives in frequency space: exact spectra of piecewise linear networks."""

from ._relu import (
    Pieces,
    Regions,
    largest_slope,
    pieces_fourier,
    regions_fourier,
    relu_line,
    relu_line_spectrum,
    relu_plane,
    relu_plane_spectrum,
)

__all__ = [
    "Pieces",
    "Regions",
    "largest_slope",
    "pieces_fourier",
    "regions_fourier",
    "relu_line",
    "relu_line_spectrum",
    "relu_plane",
    "relu_plane_spectrum",
]
