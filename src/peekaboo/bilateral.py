"""The guided blur of the paper: a bilateral filter of θ whose weights come from a guide picture, computed once and applied often."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class BilateralBlur:
    r"""Repeated normalised bilateral averaging of a map by a fixed guide (arXiv 2211.13224, §3.2).

    With p a pixel, q its neighbours in the k×k window inside the picture, and g the guide,

    .. math:: w_{pq} \propto \exp\left(-\frac{|p-q|^2}{2 σ_s^2} - \frac{|g_p-g_q|^2}{2 σ_c^2}\right),
              \qquad \mathrm{blur}(θ)_p = \sum_q w_{pq} θ_q, \quad \sum_q w_{pq} = 1,

    applied `iterations` times. It is linear in θ, and a constant map stays what it is.

    guide: (1, C, h, w), float: RGB in [0, 1], a depth map, anything that should stop the blur at its edges.
    kernel_size: odd. sigma_space: pixels. sigma_guide: units of the guide (.08 for RGB in [0, 1]).
    """

    def __init__(
        self,
        guide: Tensor,
        kernel_size: int = 3,
        iterations: int = 40,
        sigma_space: float = 5.0,
        sigma_guide: float = 0.08,
    ) -> None:
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        self.iterations, self.radius = iterations, kernel_size // 2
        self.shape = tuple(guide.shape[-2:])
        self.weights = self._weights(guide, sigma_space, sigma_guide)  # (k*k, h, w)

    def _weights(self, guide: Tensor, sigma_space: float, sigma_guide: float) -> Tensor:
        r = self.radius
        h, w = self.shape
        padded = F.pad(guide[0], (r, r, r, r))
        inside = F.pad(torch.ones_like(guide[0, :1]), (r, r, r, r))
        weights = []
        for dy in range(2 * r + 1):
            for dx in range(2 * r + 1):
                neighbour = padded[:, dy : dy + h, dx : dx + w]
                exists = inside[0, dy : dy + h, dx : dx + w]
                squared = (neighbour - guide[0]).square().sum(dim=0)
                distance = (dy - r) ** 2 + (dx - r) ** 2
                exponent = -distance / (2 * sigma_space**2) - squared / (2 * sigma_guide**2)
                weights.append(exists * torch.exp(exponent))
        stacked = torch.stack(weights)
        return stacked / stacked.sum(dim=0, keepdim=True)

    def __call__(self, theta: Tensor) -> Tensor:
        """Blur (N, h, w), differentiably. Raises ValueError if the size is not the guide's."""
        if tuple(theta.shape[-2:]) != self.shape:
            raise ValueError(f"expected a map of {self.shape}, got {tuple(theta.shape[-2:])}")
        for _ in range(self.iterations):
            theta = self._once(theta)
        return theta

    def _once(self, theta: Tensor) -> Tensor:
        r = self.radius
        h, w = self.shape
        padded = F.pad(theta, (r, r, r, r))
        blurred = torch.zeros_like(theta)
        for index, weight in enumerate(self.weights):
            dy, dx = divmod(index, 2 * r + 1)
            blurred = blurred + weight * padded[:, dy : dy + h, dx : dx + w]
        return blurred


def no_blur(theta: Tensor) -> Tensor:
    """The identity, where an alpha model takes a blur and none is wanted."""
    return theta
