"""Trains the pocket model from scratch: `python -m gptoss_mlx.pocket.train OUT --minutes 70`.

Writes `state.pt` (resumable) and `training_log.jsonl` to OUT; `export` makes the checkpoint. Needs the `train` extra.
Owns the loop, the schedule and the losses.
"""

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed
import torch.multiprocessing
from torch import Tensor
from torch.nn import functional

from gptoss_mlx.pocket.corpus import Batch, make_batches
from gptoss_mlx.pocket.dimensions import Dimensions
from gptoss_mlx.pocket.network import Network
from gptoss_mlx.pocket.optimiser import make_optimisers
from gptoss_mlx.pocket.quantise import round_mxfp4
from gptoss_mlx.tokenizer import Tokenizer

BALANCE_WEIGHT = 0.03
"""Weight of the load-balancing loss. Source: Switch Transformer, arXiv 2101.03961, equation 4."""
Z_WEIGHT = 1e-3
"""Weight of the router z-loss. Source: ST-MoE, arXiv 2202.08906, equation 5."""


@dataclass(frozen=True)
class Schedule:
    """What changes over the run; progress goes from 0 to 1."""

    warm_up: float = 0.01
    """End of the linear warm-up of the learning rate."""
    decay_from: float = 0.85
    """Start of the linear decay to zero."""
    quantise_from: float = 0.75
    """From here on the experts are rounded to MXFP4 in the forward pass."""

    def rate(self, progress: float) -> float:
        """Factor on the learning rates."""
        if progress < self.warm_up:
            return max(progress / self.warm_up, 0.01)
        if progress < self.decay_from:
            return 1.0
        return max((1 - progress) / (1 - self.decay_from), 0.0)


def losses(network: Network, batch: Batch, quantised: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cross entropy, load-balancing loss, router z-loss, and the load shares `[layers, experts]`."""
    masks = batch.masks(network.dims.sliding_window, torch.bfloat16)
    hidden, router, loads = network.hidden(
        batch.ids, batch.positions, masks, transform=round_mxfp4 if quantised else None
    )
    targets = batch.targets.flatten()
    places = torch.nonzero(targets >= 0).squeeze(1)
    logits = hidden.flatten(0, 1).index_select(0, places) @ network.head.to(hidden.dtype).T
    entropy = functional.cross_entropy(logits.float(), targets[places])
    real = (batch.documents.flatten() >= 0).float()
    balance, z = entropy.new_zeros(()), entropy.new_zeros(())
    shares = []
    for scores, load in zip(router, loads, strict=True):
        probabilities = (scores.softmax(-1) * real.unsqueeze(-1)).sum(0) / real.sum()
        share = load.float() / load.sum()
        balance = balance + network.dims.num_experts * (share * probabilities).sum() / len(router)
        z = z + scores.logsumexp(-1).square().mean() / len(router)
        shares.append(share)
    return entropy, balance, z, torch.stack(shares)


def load_entropy(shares: Tensor) -> float:
    """The least entropy of a layer's expert load, as a part of the uniform one."""
    entropy = -(shares * (shares + 1e-9).log()).sum(-1) / math.log(shares.shape[-1])
    return float(entropy.min())


@dataclass(frozen=True)
class Settings:
    """One training run."""

    out: Path
    """Folder of the state and the log."""
    tokenizer: Path
    """tokenizer.json, or its folder."""
    minutes: float = 70
    """Length of the run; progress is the share of it that has passed."""
    seed: int = 20
    """Seed of the weights and of the data."""
    rows: int = 16
    """Rows of a batch, over all workers."""
    length: int = 384
    """Tokens of a row."""
    workers: int = 2
    """Processes of one thread each that share a batch; faster than one process of several threads."""
    resume: bool = False
    """Whether to go on from `state.pt`."""


def share_gradients(network: Network, elapsed: float, workers: int) -> float:
    """Averages the gradients and the elapsed seconds over the workers; returns the latter."""
    if workers == 1:
        return elapsed
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    flat = torch.cat([*(each.flatten() for each in gradients), torch.tensor([elapsed])]) / workers
    torch.distributed.all_reduce(flat)
    start = 0
    for each in gradients:
        each.copy_(flat[start : start + each.numel()].view_as(each))
        start += each.numel()
    return float(flat[-1])


def train(worker: int, settings: Settings) -> None:
    """Runs the training as one of its workers; the first one writes the files."""
    if settings.workers > 1:
        torch.set_num_threads(1)
        meeting = f"file://{settings.out.resolve()}/meeting"
        torch.distributed.init_process_group("gloo", init_method=meeting, rank=worker, world_size=settings.workers)
    torch.manual_seed(settings.seed)
    tokenizer = Tokenizer.from_file(settings.tokenizer)
    network = Network(Dimensions(tokenizer.vocab_size))
    optimisers = make_optimisers(network)
    schedule = Schedule()
    step, tokens, elapsed = 0, 0, 0.0
    state_file = settings.out / "state.pt"
    if settings.resume:
        state = torch.load(state_file, weights_only=True)
        network.load_state_dict(state["network"])
        for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict({"state": saved["state"], "param_groups": optimiser.state_dict()["param_groups"]})
        step, tokens, elapsed = state["step"], state["tokens"], state["elapsed"]
    batches = make_batches(
        settings.seed + 1000 * step + worker, tokenizer, settings.rows // settings.workers, settings.length
    )
    if worker == 0:
        print(f"{sum(p.numel() for p in network.parameters()):,} parameters, {asdict(network.dims)}", flush=True)
    saved_at = last = time.monotonic()
    average, first = 0.0, step
    with (settings.out / "training_log.jsonl").open("a") as log:
        while elapsed < settings.minutes * 60:
            progress = elapsed / (settings.minutes * 60)
            rate, quantised = schedule.rate(progress), progress >= schedule.quantise_from
            batch = next(batches)
            entropy, balance, z, shares = losses(network, batch, quantised)
            (entropy + BALANCE_WEIGHT * balance + Z_WEIGHT * z).backward()
            now = time.monotonic()
            elapsed = share_gradients(network, elapsed + now - last, settings.workers)
            last = now
            for optimiser in optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = group["base_lr"] * rate
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            step, tokens = step + 1, tokens + batch.ids.numel() * settings.workers
            value = float(entropy.detach())
            average = value if step == first + 1 else 0.98 * average + 0.02 * value
            if worker == 0 and step % 20 == 0:
                record = {
                    "step": step,
                    "tokens": tokens,
                    "seconds": round(elapsed),
                    "loss": round(average, 4),
                    "rate": round(rate, 3),
                    "balance": round(float(balance.detach()), 3),
                    "load_entropy": round(load_entropy(shares), 3),
                    "mxfp4": quantised,
                }
                log.write(json.dumps(record) + "\n")
                log.flush()
            if worker == 0 and now - saved_at > 240:
                save_state(state_file, network, optimisers, step, tokens, elapsed)
                saved_at = now
    if worker == 0:
        save_state(state_file, network, optimisers, step, tokens, elapsed)


def save_state(
    path: Path, network: Network, optimisers: list[torch.optim.Optimizer], step: int, tokens: int, elapsed: float
) -> None:
    """Writes everything that a resumed run needs, in one go."""
    state = {
        "network": network.state_dict(),
        "optimisers": [each.state_dict() for each in optimisers],
        "step": step,
        "tokens": tokens,
        "elapsed": elapsed,
    }
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def main() -> None:
    """Reads the arguments and trains."""
    parser = argparse.ArgumentParser(description="Train the pocket model.")
    parser.add_argument("out", type=Path, nargs="?", default=Path("pocket-training"))
    parser.add_argument("--tokenizer", type=Path, default=Path(__file__).parent / "checkpoint")
    parser.add_argument("--minutes", type=float, default=Settings.minutes)
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--rows", type=int, default=Settings.rows)
    parser.add_argument("--length", type=int, default=Settings.length)
    parser.add_argument("--workers", type=int, default=Settings.workers)
    parser.add_argument("--resume", action="store_true")
    settings = Settings(**vars(parser.parse_args()))
    settings.out.mkdir(parents=True, exist_ok=True)
    (settings.out / "meeting").unlink(missing_ok=True)
    if settings.workers == 1:
        train(0, settings)
    else:
        torch.multiprocessing.spawn(train, args=(settings,), nprocs=settings.workers)


if __name__ == "__main__":
    main()
