"""gpt-oss: token ids in, logits out.

Owns: the stack of decoder layers between the embedding and lm_head. Does not own: reading weights (`weights`), choosing
tokens (`generate`), or text.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeAlias

import mlx.core as mx

from gptoss_mlx.cache import GROWTH_TOKENS, KVCache
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.decoder_layer import DecoderLayer
from gptoss_mlx.device import this_device
from gptoss_mlx.ends import Ends, Wanted, WholeEnds
from gptoss_mlx.errors import ContextOverflow
from gptoss_mlx.memory import Needs, fitting_chunk
from gptoss_mlx.memory_limits import has_room
from gptoss_mlx.ops import Norm, Ops, Place, Position, Projection, Rotation, current_ops
from gptoss_mlx.recorded_step import RecordedStep
from gptoss_mlx.rope import YarnRope

RECORDED_KEYS: Final = GROWTH_TOKENS
"""Lengths that share a recorded step: up to a multiple of this, as a full layer's body grows."""

RECORDED_STEPS: Final = 4
"""Recorded steps that are kept: for tokens and for logits, of this length and of another conversation's."""

Step: TypeAlias = Callable[[mx.array, KVCache, Place], mx.array]
"""One token's way through a model: from the token, `[1, 1]`, and the cache that takes it in to what is wanted."""


class Model:
    """A gpt-oss of any size with its weights."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        embedding: Projection,
        layers: Sequence[DecoderLayer],
        norm: Norm,
        lm_head: Projection,
        dtype: mx.Dtype,
    ) -> None:
        self.config = config
        """The model's shape."""
        self.embedding = embedding
        """`[vocab, hidden]`, no bias."""
        self.layers = list(layers)
        """The decoder layers, first to last."""
        self.norm = norm
        """The last RMSNorm."""
        self.lm_head = lm_head
        """`[vocab, hidden]`, no bias."""
        self.dtype = dtype
        """The dtype of activations and of the KV cache."""
        self.ends: Ends = WholeEnds(embedding, norm, lm_head, dtype)
        """What comes before the layers and after them."""
        self._rope = YarnRope(config.head_dim, config.rope)
        self._recorded: dict[tuple[Ops, int, Wanted], RecordedStep | None] = {}

    @property
    def runs_apart(self) -> bool:
        """Whether calling the model queues the work and comes back at once, rather than when it is done."""
        return current_ops().runs_apart(self.lm_head)

    @property
    def lost(self) -> bool:
        """Whether it can be of no use any more, and has to be loaded again: never, where its weights are here."""
        return False

    def close(self) -> None:
        """Ends what runs for it outside of this process: nothing, where its weights are here."""

    def begin_peak(self) -> None:
        """From now on `peak_memory_bytes` counts."""
        mx.reset_peak_memory()

    @property
    def peak_memory_bytes(self) -> int:
        """The most that MLX held since `begin_peak`."""
        return mx.get_peak_memory()

    def has_room(self, more_kv_bytes: int, chunk: int, context: int) -> bool:
        """Whether KV caches may grow by so much while a `chunk` of a prompt of `context` tokens is read."""
        return has_room(self.config, self.dtype.size, more_kv_bytes, chunk, context)

    def make_cache(self) -> KVCache:
        """An empty KV cache for this model."""
        return KVCache(self.config)

    def fitting_chunk(self, cache: KVCache, wanted: int, *, logits: bool = False) -> int:
        """How many of `wanted` tokens to read next into `cache`: fewer than those where memory is near its limit.

        `logits` says that they are wanted after every token.
        """
        # Weights count among what MLX holds.
        return self._fitting_chunk(Needs(self.config, 0, self.dtype.size), cache, wanted, logits)

    def _fitting_chunk(self, needs: Needs, cache: KVCache, wanted: int, logits: bool) -> int:
        return fitting_chunk(
            needs,
            this_device(),
            wanted=wanted,
            offset=cache.offset,
            active_bytes=mx.get_active_memory(),
            held_bytes=cache.nbytes,
            logits=logits,
        )

    def __call__(self, tokens: mx.array, cache: KVCache | None = None, *, last_only: bool = False) -> mx.array:
        """Logits, float32 `[batch, seq, vocab]`, or `[batch, 1, vocab]` of the last position with `last_only`.

        `tokens` are integers `[batch, seq]` below `vocab_size`, at the positions from `cache.offset` on; the cache
        takes them in. Where the model runs apart, nothing is computed before the result, or `cache.arrays`, is
        evaluated. Raises `ContextOverflow` when they would pass `max_position_embeddings`.
        """
        return self._read(tokens, cache, "last_logits" if last_only else "logits")

    def most_probable(self, tokens: mx.array, cache: KVCache | None = None) -> mx.array:
        """The most probable token after `tokens`, uint32 `[batch, 1]`; of equals the lowest id. Else like a call."""
        return self._read(tokens, cache, "last_token")

    def read(self, tokens: mx.array, cache: KVCache) -> mx.array:
        """Reads `tokens` and predicts nothing: what is left of them after the last layer, `[batch, seq, hidden]`.

        Once that is evaluated, they have been read. Else like a call.
        """
        return self._read(tokens, cache, "nothing")

    def read_together(self, tokens: mx.array, caches: Sequence[KVCache], *, most_probable: bool = False) -> mx.array:
        """Reads one token of each of several sequences: logits float32 `[sequences, vocab]` after each.

        With `most_probable`, the most probable tokens, uint32 `[sequences]`. `tokens` are integers `[sequences]`, each
        at the next position of its own cache, wherever that is. Weights are read once for all of them; attention is
        each sequence's own. Else like a call.
        """
        offsets = [cache.offset for cache in caches]
        if (longest := max(offsets) + 1) > self.config.max_position_embeddings:
            raise ContextOverflow(longest, self.config.max_position_embeddings)
        before = [cache.snapshot() for cache in caches]
        try:
            places = [
                Place(Position.at(offset), Position.at(offset + 1), self._rope.rotation(offset, 1))
                for offset in offsets
            ]
            # To all but attention they are the tokens of one sequence.
            turns = zip(*(place.rotation for place in places), strict=True)
            rotation = Rotation(*(mx.concatenate(list(parts)) for parts in turns))
            x = self.ends.embed(tokens[None])
            for index, layer in enumerate(self.layers):
                attention = layer.attention
                q, rows = attention.queries(x, rotation)
                attended = [
                    attention.attend(q[:, :, n : n + 1], rows[:, :, n : n + 1], cache.layers[index], place)
                    for n, (cache, place) in enumerate(zip(caches, places, strict=True))
                ]
                x = layer.experts(attention.finish(mx.concatenate(attended, axis=1), x))
            return self.ends.finish(x, "tokens" if most_probable else "logits")[0]
        except BaseException:
            for cache, state in zip(caches, before, strict=True):
                cache.restore(state)
            raise

    def _read(self, tokens: mx.array, cache: KVCache | None, wanted: Wanted) -> mx.array:
        cache = self.make_cache() if cache is None else cache
        offset, seq = cache.offset, tokens.shape[1]
        if offset + seq > self.config.max_position_embeddings:
            raise ContextOverflow(offset + seq, self.config.max_position_embeddings)
        before = cache.snapshot()
        try:
            place = Place(Position.at(offset), Position.at(offset + seq), self._rope.rotation(offset, seq))
            # An empty cache has no rings that a recorded step could take.
            step = self._recorded_step(cache, place, wanted) if tokens.size == 1 and offset else None
            if step is not None:
                return step(tokens, cache, place)
            x = self.ends.embed(tokens)
            for layer, layer_cache in zip(self.layers, cache.layers, strict=True):
                x = layer(x, layer_cache, place)
            return self.ends.finish(x, wanted)
        except BaseException:
            # Some layers have taken the tokens in and others not: none may have.
            cache.restore(before)
            raise

    def _recorded_step(self, cache: KVCache, place: Place, wanted: Wanted) -> Step | None:
        """One token's way through the model as recorded before, or to be recorded now; None where that is not done."""
        ops, most_keys = current_ops(), -(-place.length.most // RECORDED_KEYS) * RECORDED_KEYS
        key = ops, most_keys, wanted
        if key not in self._recorded:
            while len(self._recorded) >= RECORDED_STEPS:
                del self._recorded[next(iter(self._recorded))]
            heads = self.layers[0].attention.heads
            recording = ops.recording(heads, self.dtype, self.config.sliding_window, most_keys)
            self._recorded[key] = recording and RecordedStep(
                self.layers,
                cache.layers,
                recording,
                most_keys,
                *self._step_ends(wanted),
            )
        return self._recorded[key]

    def _step_ends(self, wanted: Wanted) -> tuple[Callable[[mx.array], mx.array], Callable[[mx.array], mx.array]]:
        """What a recorded step does before the first layer, and after the last.

        Not bound to this model, which would keep itself alive by what it recorded.
        """
        return self.ends.embed, partial(self.ends.finish, wanted=wanted)
