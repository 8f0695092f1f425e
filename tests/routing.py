"""Routings to experts that a test chose."""

import mlx.core as mx
import numpy as np

from gptoss_mlx.ops import Routing


def routing_to(chosen: np.ndarray, weights: np.ndarray, experts: int) -> Routing:
    """The routing of one sequence to `chosen`, `[tokens, experts_per_token]` of so many experts, with `weights`.

    A token's weights add up to 1 and never rise; of equal ones the lower expert comes first.
    """
    chosen, weights = np.asarray(chosen), np.asarray(weights)
    logits = np.full((1, len(chosen), experts), -100.0, dtype=np.float32)
    np.put_along_axis(logits[0], chosen, np.log(weights).astype(np.float32), axis=-1)
    routing = Routing(mx.array(logits), chosen.shape[-1])
    np.testing.assert_array_equal(np.array(routing.experts[0]), chosen)
    np.testing.assert_allclose(np.array(routing.weights[0]), weights, rtol=1e-5)
    return routing
