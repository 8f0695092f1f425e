"""One model on several machines, over MLX's own distributed engine: which machine has which part, and what they say to
each other for each token. Knows token ids and no text, and starts no processes.

    config, memories ── plan.make_plan ── Plan ── load.load_shard(folder, plan, group) ── a Model

Two ways to divide a model (`plan`):

    tensor    every machine has a part of every layer: some heads, some columns of every expert, some rows of the
              embedding and of lm_head. All work at once; two sums a layer go over the wire
    pipeline  every machine has some layers as a whole. One works after the other; the residual stream is handed on

What `load_shard` gives has `Model`'s interface, and every call of it is collective: all ranks make the same calls with
the same tokens, in the same order, and get the same results. Each call queues its work at once, whatever becomes of the
result, so that ranks which look at different results stay in step. `fitting_chunk` and `runs_apart` agree among ranks.

A group comes from `mx.distributed.init(strict=True, backend="ring")` on the thread that will run the model, with
MLX_RANK and MLX_HOSTFILE (a JSON list of each rank's list of "address:port") in the environment before the call. Leave
MLX_METAL_FAST_SYNCH alone: it makes handing arrays between GPU and network cheaper, and by MLX's documentation can lock
the GPU up. Two ranks on different chips compute a router's logits with other roundings; where two experts are that
close, each takes another one, and the sum is of half of each. What is equal on all ranks by construction is everything
that came over the wire: the residual stream, logits and tokens.

What MLX 0.32.4's ring does when a peer is lost, measured on Linux with MLX on the processor:

- The peer's process ended (kill -9 too) or its connection was reset: a neighbour that waits for it prints "[ring]
  Socket N was closed by the peer" ten times on stderr, and `mx.eval`, or whatever waits for the result, raises
  RuntimeError "[ring] connection to a peer was lost" at once. Ranks that are not its neighbours notice when theirs end.
- After that error the ring is of no use any more: a later collective raises again, or waits for ever. End the process
  with `os._exit`: a normal exit may wait for a thread that never ends.
- The peer is there and silent (stopped, asleep, its cable pulled): nothing is noticed, MLX has no time limit. A waiting
  rank keeps a core busy for each connection. Whoever starts the ranks needs a watchdog of its own.
- Nobody waits: nothing is noticed before the next collective.
- While ranks connect, each tries 5 times, waiting 1, 2, 4, 8 and 16 s; a rank that waits to be connected to waits for
  ever.
"""
