"""A trained network whose outputs another one learns besides the labels: knowledge distillation."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobilenet_train.config.schema import DistillConfig
from mobilenet_train.runtime import Runtime


@dataclass(frozen=True)
class Teacher:
    """`network` is on the run's device, in evaluation mode, with its norms folded in, and never changes."""

    network: nn.Module
    digest: str  # of its weights
    about: str  # for people
    custom: bool  # built by a function of the user's own

    def logits(self, images: Tensor, runtime: Runtime) -> Tensor:
        """(B, C, R, R), the very images that the student sees -> (B, classes), in the run's precision."""
        with torch.inference_mode(), runtime.casting():
            logits = self.network(images)
        return logits.clone()  # autograd takes no tensor that was made in inference mode


def distilled(loss: Tensor, logits: Tensor, teachers: Tensor, config: DistillConfig) -> Tensor:
    """(1 - weight) x loss + weight x T^2 x KL(teacher || student), both softened by the temperature T.

    logits: (B, classes), as the teacher's. The divergence is a mean over samples; T^2 keeps its gradients' size.
    Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2; that the teacher
    sees the same crop, and with weight 1 nothing else is learned: Beyer et al., "Knowledge distillation: A good teacher
    is patient and consistent", 2022.
    """
    ours, theirs = (F.log_softmax(values / config.temperature, dim=1) for values in (logits, teachers.to(logits)))
    divergence = F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
    return (1 - config.weight) * loss + config.weight * config.temperature**2 * divergence
