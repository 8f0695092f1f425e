"""One rank of two: rank 1 kills itself, and rank 0 prints what it hears of that and ends with 7."""

import os
import signal
import time

import mlx.core as mx

group = mx.distributed.init(strict=True, backend="ring")
message = mx.ones(2880)
mx.eval(mx.distributed.all_gather(message, group=group))
if group.rank() == 1:
    os.kill(os.getpid(), signal.SIGKILL)
begin = time.monotonic()
try:
    while time.monotonic() < begin + 30:
        mx.eval(mx.distributed.all_gather(message, group=group))
except RuntimeError as error:
    print(error, flush=True)
    os._exit(7)
