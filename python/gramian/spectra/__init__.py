"""Where a network lives in frequency space: exact spectra of piecewise linear networks, and spectral bias."""

from ._bias import (
    FrequencyRecorder,
    amplitudes_at,
    learn_sinusoids,
    learned_at,
    perturbed_amplitudes,
    petal,
    sinusoids,
    wave_noise,
)
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
    "FrequencyRecorder",
    "Pieces",
    "Regions",
    "amplitudes_at",
    "largest_slope",
    "learn_sinusoids",
    "learned_at",
    "perturbed_amplitudes",
    "petal",
    "pieces_fourier",
    "regions_fourier",
    "relu_line",
    "relu_line_spectrum",
    "relu_plane",
    "relu_plane_spectrum",
    "sinusoids",
    "wave_noise",
]
