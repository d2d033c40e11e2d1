"""State sums: 6j symbols as tensors, 4-simplex weights with gradients, and the identities that prove them."""

from ._checks import (
    PachnerResidual,
    check_biedenharn_elliott,
    check_orthogonality,
    check_pachner,
    check_racah_sum_rule,
    check_regge_symmetry,
    check_schlaefli,
)
from ._coupling import clebsch_gordan, ninej, threej
from ._quantum import edges_of, ponzano_regge, quantum_sixj, turaev_viro
from ._sixj import (
    ExactSixj,
    SixjBlock,
    SixjFamily,
    ponzano_regge_asymptotics,
    sixj,
    sixj_block,
    sixj_exact,
    sixj_family,
)
from ._tables import SixjChunk, SixjOrbits, sixj_orbits, sixj_table, sixj_tensor
from ._weights import (
    ComplexWeight,
    Faces,
    Geometry,
    Weight4,
    complex_faces,
    complex_weight,
    geometry,
    weight4,
)

__all__ = [
    "ComplexWeight",
    "ExactSixj",
    "Faces",
    "Geometry",
    "PachnerResidual",
    "SixjBlock",
    "SixjChunk",
    "SixjFamily",
    "SixjOrbits",
    "Weight4",
    "check_biedenharn_elliott",
    "check_orthogonality",
    "check_pachner",
    "check_racah_sum_rule",
    "check_regge_symmetry",
    "check_schlaefli",
    "clebsch_gordan",
    "complex_faces",
    "complex_weight",
    "edges_of",
    "geometry",
    "ninej",
    "ponzano_regge",
    "ponzano_regge_asymptotics",
    "quantum_sixj",
    "sixj",
    "sixj_block",
    "sixj_exact",
    "sixj_family",
    "sixj_orbits",
    "sixj_table",
    "sixj_tensor",
    "threej",
    "turaev_viro",
    "weight4",
]
