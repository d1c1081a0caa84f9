"""Muon (Jordan et al. 2024) for networks with convolutions: PyTorch's own takes matrices alone.

A weight of two or more dimensions is a matrix (out, rest); its momentum is replaced by the nearest orthogonal matrix, so
that every direction of a layer learns, not the loudest alone. Scaled as in Liu et al. 2025 (arXiv 2502.16982), so that
AdamW's learning rate and weight decay carry over.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from peekaboo.denoisers.load import multiplies_bfloat16

STEEP = (3.4445, -4.7750, 2.0315)  # the quintic whose iterates push every singular value towards 1


@torch.no_grad()
def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """Roughly U Vᵀ of each of `matrices` (N, n, m), float32: singular values end between 0.7 and 1.2. Computed in bfloat16
    where the device multiplies it natively."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).float()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    if multiplies_bfloat16(x.device):
        x = x.bfloat16()
    a, b, c = STEEP
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).float()


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, made orthogonal. For weights of two or more dimensions. On a GPU, matrices of one shape go together:
    one at a time, they are too small for it."""

    def __init__(self, parameters, lr: float, momentum: float = 0.95, weight_decay: float = 1e-4) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            for alike in together(weights):
                self._step(alike, **{key: group[key] for key in ("lr", "momentum", "weight_decay")})

    def _step(self, weights: list[Tensor], lr: float, momentum: float, weight_decay: float) -> None:
        for weight in weights:
            if "momentum" not in self.state[weight]:
                self.state[weight]["momentum"] = torch.zeros_like(weight)
        gradients = [weight.grad for weight in weights]
        momenta = [self.state[weight]["momentum"] for weight in weights]
        torch._foreach_lerp_(momenta, gradients, 1 - momentum)
        directions = [direction.flatten(1) for direction in torch._foreach_lerp(gradients, momenta, momentum)]
        scale = 0.2 * max(directions[0].shape) ** 0.5
        changes = orthogonal(torch.stack(directions))
        torch._foreach_mul_(weights, 1 - lr * weight_decay)
        torch._foreach_add_(weights, [c.view_as(w) for c, w in zip(changes, weights, strict=True)], alpha=-lr * scale)


def together(weights: list[Tensor]) -> list[list[Tensor]]:
    """Groups of weights that flatten to one shape of matrix; on a CPU, each alone."""
    if weights and weights[0].device.type == "cpu":
        return [[weight] for weight in weights]
    groups: dict[tuple[int, ...], list[Tensor]] = {}
    for weight in weights:
        groups.setdefault((len(weight), weight.numel() // len(weight)), []).append(weight)
    return list(groups.values())


def is_matrix(name: str, weight: nn.Parameter) -> bool:
    """Whether Muon trains it: hidden layers, not embeddings, biases, norms, nor the first and last convolution."""
    return weight.ndim >= 2 and not any(part in name for part in ("embedding.weight", "conv_in.", "conv_out."))
