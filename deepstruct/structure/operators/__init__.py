"""Edge operators: the edges between two spaces of units as a linear operator, never as a list."""

from deepstruct.structure.operators.attention import KeyScores, QueryScores, ScoreOperator, ScoreOutputs
from deepstruct.structure.operators.base import EdgeOperator, Edges, WeightMode, WeightRef, alive
from deepstruct.structure.operators.channels import Channels, Slice
from deepstruct.structure.operators.conv import Conv
from deepstruct.structure.operators.elementwise import Identity, Sparse
from deepstruct.structure.operators.matmul import Matmul
from deepstruct.structure.operators.separable import Separable

__all__ = [
    "Channels",
    "Conv",
    "EdgeOperator",
    "Edges",
    "Identity",
    "KeyScores",
    "Matmul",
    "QueryScores",
    "ScoreOperator",
    "ScoreOutputs",
    "Separable",
    "Slice",
    "Sparse",
    "WeightMode",
    "WeightRef",
    "alive",
]
