"""One model on several machines: its ranks, what starts and watches them, and the model that stands for them here.

    GptOss ── Engine ── RemoteModel ── Cluster ──┬── a pipe ─────── rank 0 ──┐
      (this process; it is no rank)              └── ssh mac2 ───── rank 1 ──┴── MLX's ring, between the ranks

The process that holds the conversation takes no part in the computing: MLX's ring takes a rank down, or lets it wait
for ever, when another one dies. Here the worst is a turn that ends with `HostLost`; the next one starts the ranks anew.

Each rank is a process of its own, `python -m gptoss_mlx.hosts.rank`, whose standard input and output are its line to
here (`frames`): commands go to all ranks in the same order, since all of them must follow for one to compute; rank 0
gives the results. Both sides send a sign of life now and then, and a rank whose line ends goes at once, so that nothing
is left of a front end that was killed.

`mlx.launch` is not what starts them, though the ranks find each other as it arranges that (`MLX_HOSTFILE`, `MLX_RANK`,
its hostfiles): it mixes the output of all ranks into one stream, through a terminal, so that commands would need a
port open to the network and a secret to guard it; its ssh may ask for passwords; and it spins while it waits (measured:
0.65 cores for two ranks that sleep). ssh without a terminal gives a line that is encrypted, authenticated and ends when
either side does.

Owns: starting, checking, watching, ending ranks; the commands. Does not own: which rank holds what of a model, and how
ranks compute together (`distributed`); turns and caches of conversations (`turn`, `kv_pool`), which work as on one
machine.
"""
