"""The optimiser: Muon for matrices inside the layers, AdamW for everything else.

Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024).
"""

import torch
from torch import Tensor, nn


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix to each `[..., rows, columns]`, by the quintic Newton-Schulz iteration."""
    x = matrix.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.float().norm(dim=(-2, -1), keepdim=True).to(x.dtype) + 1e-7)
    for _ in range(steps):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
    return (x.mT if tall else x).float()


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal; parameters are matrices or stacks of them."""

    def __init__(
        self, parameters: list[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.1
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"]
                momentum.lerp_(parameter.grad, 1 - group["momentum"])
                direction = orthogonalise(parameter.grad.lerp(momentum, group["momentum"]))
                scale = max(1.0, parameter.shape[-2] / parameter.shape[-1]) ** 0.5
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(direction, alpha=-group["lr"] * scale)


def make_optimisers(network: nn.Module) -> list[torch.optim.Optimizer]:
    """Both optimisers, each group with its `base_lr`."""
    matrices: list[nn.Parameter] = []
    tables: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        if name == "embedding" or name == "head":
            tables.append(parameter)
        elif parameter.ndim >= 2 and "router" not in name and "bias" not in name:
            matrices.append(parameter)
        else:
            others.append(parameter)
    muon = Muon(matrices, lr=0.006)
    # Rare tokens and the router see noisy gradients in batches this small: their steps stay well below their weights.
    adam = torch.optim.AdamW(
        [{"params": tables[:1], "lr": 3e-3}, {"params": tables[1:], "lr": 6e-4}, {"params": others, "lr": 6e-4}],
        betas=(0.9, 0.99),
        eps=1e-10,
        weight_decay=0.0,
    )
    for optimiser in (muon, adam):
        for group in optimiser.param_groups:
            group["base_lr"] = group["lr"]
    return [muon, adam]
