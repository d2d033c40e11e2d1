"""Where a network lives in frequency space: power on grids, Fourier and kernel sums in any dimension, exact spectra, spectral bias."""

from ._bias import FrequencyRecorder, learn_sinusoids, learned_at, perturbed_amplitudes
from ._power import cross_spectrum, power_spectrum
from ._radial import RadialSpectrum, coherence, radial_spectrum
from ._relu_line import Pieces, pieces_fourier, relu_line, relu_line_spectrum
from ._relu_plane import Regions, largest_slope, regions_fourier, relu_plane, relu_plane_spectrum
from ._sums import Kernel, gaussian_eigenpairs, kernel_sum, ndft, ndft_adjoint
from ._targets import amplitudes_at, petal, sinusoids, wave_noise

__all__ = [
    "FrequencyRecorder",
    "Kernel",
    "Pieces",
    "RadialSpectrum",
    "Regions",
    "amplitudes_at",
    "coherence",
    "cross_spectrum",
    "gaussian_eigenpairs",
    "kernel_sum",
    "largest_slope",
    "learn_sinusoids",
    "learned_at",
    "ndft",
    "ndft_adjoint",
    "perturbed_amplitudes",
    "petal",
    "pieces_fourier",
    "power_spectrum",
    "radial_spectrum",
    "regions_fourier",
    "relu_line",
    "relu_line_spectrum",
    "relu_plane",
    "relu_plane_spectrum",
    "sinusoids",
    "wave_noise",
]
