"""One rank's part of a model, called like a whole one by all ranks together.

Owns: what such a model does otherwise than `Model`: its KV cache is its share's, what depends on memory or on the
machine is agreed upon, and every call is queued at once. Does not own: what goes over the wire within a call (`parts`).
"""

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from typing import TypeAlias
from weakref import WeakKeyDictionary

import mlx.core as mx

from gptoss_mlx.cache import KVCache
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.decoder_layer import DecoderLayer
from gptoss_mlx.distributed.parts import PipelineEnds, tensor_ends
from gptoss_mlx.distributed.plan import Plan, share_config
from gptoss_mlx.distributed.wire import Wire
from gptoss_mlx.ends import Ends, Wanted, WholeEnds
from gptoss_mlx.memory import Needs
from gptoss_mlx.model import Model, Step
from gptoss_mlx.ops import Norm, Place, Projection, current_ops

_Ends: TypeAlias = tuple[Callable[[mx.array], mx.array], Callable[[mx.array], mx.array]]


class ShardedModel(Model):
    """One rank's part of a model. `config` is the whole model's; embedding and lm_head have the rows that are here.

    Every method is collective: all ranks call it with equal arguments, on caches that they made and used alike, and get
    equal results; `read` alone gives each rank what it has. All work is queued before a call returns.
    """

    def __init__(
        self,
        config: ModelConfig,
        plan: Plan,
        wire: Wire,
        *,
        embedding: Projection,
        layers: Sequence[DecoderLayer],
        norm: Norm,
        lm_head: Projection,
        dtype: mx.Dtype,
    ) -> None:
        """`layers` are this rank's, in tensor mode as `parts.part_of` gives them."""
        super().__init__(config, embedding=embedding, layers=layers, norm=norm, lm_head=lm_head, dtype=dtype)
        self.plan = plan
        """What each rank has."""
        self.wire = wire
        """This rank's end of the group."""
        self.share_config = share_config(config, plan.shares[wire.rank])
        """The shape of this rank's layers."""
        whole = WholeEnds(embedding, norm, lm_head, dtype)
        self.ends: Ends = (
            tensor_ends(whole, plan, wire)
            if plan.mode == "tensor"
            else PipelineEnds(whole, config.hidden_size, config.vocab_size, wire)
        )
        self._step_costs: WeakKeyDictionary[Step, tuple[int, int]] = WeakKeyDictionary()
        """Bytes and hops of each recorded step."""
        apart = wire.gather_ints([int(current_ops().runs_apart(lm_head))])
        self._runs_apart = all(number for (number,) in apart)

    @property
    def runs_apart(self) -> bool:
        """Whether that is so on every rank, as of loading: what a caller does next depends on it."""
        return self._runs_apart

    @property
    def nbytes(self) -> int:
        """Bytes of the weights that are here; arrays that several layers share count once."""
        arrays: dict[int, mx.array] = {}
        _collect([self.embedding, self.norm, self.lm_head, self.layers], arrays)
        return sum(array.nbytes for array in arrays.values())

    def make_cache(self) -> KVCache:
        """An empty KV cache for this rank's heads, or its layers."""
        return KVCache(self.share_config)

    def fitting_chunk(self, cache: KVCache, wanted: int, *, logits: bool = False) -> int:
        """As in a whole model; the least of what all ranks have room for."""
        own = self._fitting_chunk(Needs(self.share_config, 0, self.dtype.size), cache, wanted, logits)
        return min(number for (number,) in self.wire.gather_ints([own]))

    def read_together(self, tokens: mx.array, caches: Sequence[KVCache], *, most_probable: bool = False) -> mx.array:
        result = super().read_together(tokens, caches, most_probable=most_probable)
        _queue(result, caches)
        return result

    def _read(self, tokens: mx.array, cache: KVCache | None, wanted: Wanted) -> mx.array:
        cache = self.make_cache() if cache is None else cache
        result = super()._read(tokens, cache, wanted)
        _queue(result, [cache])
        return result

    def _recorded_step(self, cache: KVCache, place: Place, wanted: Wanted) -> Step | None:
        """Sums over the wire are recorded with the rest of a step; what a pipeline hands on is not."""
        if self.plan.mode == "tensor":
            step = super()._recorded_step(cache, place, wanted)
            return step and self._counted(step)
        # The layers alone, whatever is wanted.
        step = super()._recorded_step(cache, place, "nothing")
        return step and partial(_between_ends, step, self.ends, wanted)

    def _step_ends(self, wanted: Wanted) -> _Ends:
        return super()._step_ends(wanted) if self.plan.mode == "tensor" else (_unchanged, _unchanged)

    def _counted(self, step: Step) -> Step:
        """`step`, whose bytes are counted when it is replayed, too: the wire hears only of its recording."""

        def run(tokens: mx.array, cache: KVCache, place: Place) -> mx.array:
            before = self.wire.sent_bytes, self.wire.hops
            result = step(tokens, cache, place)
            said = self.wire.sent_bytes - before[0], self.wire.hops - before[1]
            # A step that is recorded in stretches may record some of them anew.
            known = self._step_costs.get(step, (0, 0))
            self._step_costs[step] = costs = max(known, said)
            self.wire.sent_bytes, self.wire.hops = before[0] + costs[0], before[1] + costs[1]
            return result

        return run


def _between_ends(step: Step, ends: Ends, wanted: Wanted, tokens: mx.array, cache: KVCache, place: Place) -> mx.array:
    return ends.finish(step(ends.embed(tokens), cache, place), wanted)


def _unchanged(x: mx.array) -> mx.array:
    return x


def _queue(result: mx.array, caches: Sequence[KVCache]) -> None:
    """Has all of a call computed, whatever becomes of its result: another rank waits for this one's part."""
    mx.async_eval(result, *(array for cache in caches for array in cache.arrays))  # type: ignore[no-untyped-call]


def _collect(value: object, arrays: dict[int, mx.array]) -> None:
    """Every array in dataclasses and lists, by identity."""
    if isinstance(value, mx.array):
        arrays[id(value)] = value
    elif isinstance(value, list):
        for item in value:
            _collect(item, arrays)
    elif is_dataclass(value):
        for field in fields(value):
            _collect(getattr(value, field.name), arrays)
