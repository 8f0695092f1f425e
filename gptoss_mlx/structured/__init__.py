"""Answers and arguments of a given form, held to it token by token.

`response_format` is the caller's side, `grammar` llguidance's, `channels` harmony's: where in a turn which grammar
holds. Knows token ids and text, and no MLX: generation asks `TurnConstraint` for a mask before each token.
"""

from gptoss_mlx.structured.channels import CLOSING_TOKENS, TurnConstraint, TurnForm
from gptoss_mlx.structured.grammar import schema_grammar
from gptoss_mlx.structured.response_format import ResponseFormat, make_response_format

__all__ = [
    "CLOSING_TOKENS",
    "ResponseFormat",
    "TurnConstraint",
    "TurnForm",
    "make_response_format",
    "schema_grammar",
]
