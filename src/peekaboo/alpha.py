"""Alpha models: what is optimised. Each gives logits; `alpha_of` turns the logits of all prompts into alphas that compete."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Blur = Callable[[Tensor], Tensor]


def alpha_of(logits: Tensor, compete: bool = True, asks: Sequence[int] | None = None) -> Tensor:
    r"""Alphas (N, h, w) in [0, 1] from logits (N, h, w).

    Competing prompts share each pixel with one another and with a "none of them" class of logit 0,
    :math:`α_i = e^{θ_i} / (1 + \sum_j e^{θ_j})`. For one prompt that is the paper's sigmoid.

    asks: a number for what each prompt asks for, or None where all ask for different things. Prompts that ask for the same, at other
    places ("the left sheep", "the largest sheep"), do not compete: their logits are alike, and would hold one another below ½. Against
    the others they count as one, by the largest of their logits.
    """
    asks = range(len(logits)) if asks is None else asks
    different = len(set(asks))
    if not compete or different == 1:
        return torch.sigmoid(logits)
    none = torch.zeros_like(logits[:1])
    if different == len(asks):
        return torch.softmax(torch.cat([logits, none]), dim=0)[:-1]
    alike = {ask: [i for i, other in enumerate(asks) if other == ask] for ask in asks}
    loudest = {ask: logits[members].amax(dim=0, keepdim=True) for ask, members in alike.items()}
    against = {ask: [none, *(loudest[other] for other in loudest if other != ask)] for ask in loudest}
    return torch.cat([torch.softmax(torch.cat([logits[i, None], *against[a]]), dim=0)[:1] for i, a in enumerate(asks)])


class Raster(nn.Module):
    """One logit per pixel and prompt: (N, h, w), float32, starting from `start` (N, h, w) or small noise."""

    def __init__(
        self,
        prompts: int,
        size: tuple[int, int],
        blur: Blur,
        generator: torch.Generator,
        start: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        if start is None:
            # alpha ~ U(0, 1) per pixel would be the page's pseudocode; its first code starts from logits of zero mean
            start = 0.1 * torch.randn(prompts, *size, generator=generator)
        self.theta = nn.Parameter(start.detach().to(device, torch.float32).clone())
        self.blur = blur

    def forward(self) -> Tensor:
        """Logits (N, h, w) after the blur."""
        return self.blur(self.theta)


class Fourier(nn.Module):
    r"""An MLP on Gaussian Fourier features of the pixel's place (arXiv 2006.10739; the paper's "Fourier" parametrisation).

    features :math:`γ(v) = [\cos 2πBv, \sin 2πBv]`, :math:`B_{ij} \sim N(0, 10^2)`, 128 of them in all, v = (x, y) in [0, 1]²;
    then three hidden layers of 256 with BatchNorm and ReLU, and one logit per prompt.
    """

    def __init__(
        self,
        prompts: int,
        size: tuple[int, int],
        blur: Blur,
        generator: torch.Generator,
        device: torch.device | str = "cpu",
        features: int = 128,
        scale: float = 10.0,
        width: int = 256,
        depth: int = 3,
    ) -> None:
        super().__init__()
        self.size, self.blur = size, blur
        grid = coordinates(size)  # (h*w, 2)
        frequencies = scale * torch.randn(2, features // 2, generator=generator)
        phase = 2 * math.pi * grid @ frequencies
        self.register_buffer("encoding", torch.cat([phase.cos(), phase.sin()], dim=-1).to(device))
        layers: list[nn.Module] = []
        for index in range(depth):
            layers += [linear(features if index == 0 else width, width), nn.BatchNorm1d(width), nn.ReLU()]
        self.network = nn.Sequential(*layers, linear(width, prompts))
        self._draw_weights(generator)
        self.to(device)

    def _draw_weights(self, generator: torch.Generator) -> None:
        """PyTorch's own initialisation of linear layers, from our generator."""
        for layer in self.network:
            if isinstance(layer, nn.Linear):
                bound = 1 / math.sqrt(layer.in_features)
                for parameter in (layer.weight, layer.bias):
                    values = torch.rand(parameter.shape, generator=generator)
                    parameter.data.copy_((2 * values - 1) * bound)

    def unblurred(self) -> Tensor:
        """Logits (N, h, w) before the blur."""
        logits: Tensor = self.network(self.encoding)  # (h*w, N)
        return logits.T.reshape(-1, *self.size)

    def forward(self) -> Tensor:
        """Logits (N, h, w) after the blur."""
        return self.blur(self.unblurred())


def fitted(model: Fourier, start: Tensor, steps: int = 150) -> Fourier:
    """The MLP, brought near given logits (N, h, w) before their blur: least squares, Adam."""
    optimizer = torch.optim.Adam(model.network.parameters(), lr=3e-3)
    with torch.enable_grad():
        for _ in range(steps):
            loss = (model.unblurred() - start).square().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    return model


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer without weights yet: PyTorch would draw them from its global generator."""
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
    return layer


def coordinates(size: tuple[int, int]) -> Tensor:
    """Pixel centres (h*w, 2) as (x, y), row by row, in units of the longer side: pixels are square on any aspect."""
    h, w = size
    longer = max(h, w)
    y, x = torch.meshgrid((torch.arange(h) + 0.5) / longer, (torch.arange(w) + 0.5) / longer, indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2)
