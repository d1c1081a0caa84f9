r"""GroupViT (arXiv 2202.11094): a vision transformer that gathers patches into groups, learnt from captions alone.

Each pixel belongs to the groups by their grouping attention, and each group has a similarity to a text: the logit of
text n at a pixel is :math:`\sum_g a_g(x) \, s \cos(v_g, u_n)`, with the model's own temperature s. (`GroupViTModel`
gives it, times s once more, as `segmentation_logits`; the factor is taken out here.)

The background. The paper takes the softmax over the names of all classes of a data set, and what stays under a
threshold (.95 on Pascal VOC) is background. With one prompt that softmax is 1 everywhere, so here a prompt competes
with one text for all the rest, "background" by default, and has the pixels where it is the likelier of the two. Every
prompt is asked alone, as the protocol wants. What the Peekaboo paper did for its GroupViT figures was not found.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from peekaboo.evaluation.baselines._shared import Baseline, TextAndImage, against, fill

DEFAULT = "nvidia/groupvit-gcc-yfcc"


class GroupViT(Baseline):
    """A prompt's group similarity against the background's, pixel by pixel."""

    def __init__(self, parts: TextAndImage, background: str, template: str, model: str) -> None:
        self.parts, self.background, self.template, self.model = parts, background, template, model

    def logits(self, rgb: NDArray[np.uint8], texts: list[str]) -> Tensor:
        """(N, 224, 224) float32 for the public model: the temperature times the cosine, once."""
        network = self.parts.network
        output = network(pixel_values=self.parts.see(rgb), **self.parts.read(texts), output_segmentation=True)
        logits: Tensor = output.segmentation_logits[0].float() / network.logit_scale.exp().float()
        return logits

    def alpha(self, rgb: NDArray[np.uint8], prompts: list[str]) -> Tensor:
        """See `Baseline`."""
        return against(self.logits(rgb, fill(self.template, [*prompts, self.background])))


def load(
    model: str | Path | None,
    device: str | None,
    dtype: str | None,
    *,
    background: str = "background",
    template: str = "{}",
) -> GroupViT:
    """background: the text that stands for all that a prompt does not name. template: what texts are put into; the
    GroupViT paper's figures use "a photo of a {}." around class names. Raises ModelError."""
    from transformers import GroupViTModel

    name = str(model or DEFAULT)
    return GroupViT(TextAndImage.load(GroupViTModel, name, "GroupViT", device, dtype), background, template, name)
