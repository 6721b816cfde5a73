"""The group `optim`: the optimiser and its schedule."""

from dataclasses import field

from mobilenet_train.config.fields import MANY, NULL, Section, flag, number, numbers, one_of, text, whole


class ScheduleConfig(Section):
    """The learning rate over the run."""

    decay: str = one_of("after the warm-up", *("cosine", "linear", "step", "exponential", "constant"))
    warmup: float = number("share of all updates in which the learning rate grows from 0 to lr", least=0, below=1)
    final: float = number("cosine and linear end at this share of lr", least=0, most=1)
    every_epochs: float = number(
        "step and exponential: the learning rate is multiplied by factor every so many epochs", above=0, typed_most=MANY
    )
    factor: float = number("of step and exponential", above=0, most=1)


class OptimConfig(Section):
    """The optimiser, one of the group `optim`."""

    name: str = text("the choice")
    lr: float = number("peak learning rate, for batches of 128", above=0, most=1000)
    weight_decay: float = number("L2, on the weights", least=0, most=10)
    weight_decay_final: float = number(
        "weight decay ends at this share of itself, along a straight line over the run; 1 = constant", least=0, most=1
    )
    decay_norm_and_bias: bool = flag("also decay batch-norm's parameters and biases")
    decay_depthwise: bool = flag("also decay depthwise kernels")
    l1: float = number("penalty on the absolute weights", least=0, most=10)
    clip_norm: float | None = number("scale gradients down to this norm", above=0, typed_most=1e6, null=NULL)
    accumulate: int = whole("batches per optimiser update", 1, 65536)
    backbone_lr: float = number(
        "learning rate of all but the classifier, as a share of lr: below 1 keeps more of what model.weights know",
        above=0,
        most=10,
    )
    frozen_epochs: int = whole(
        "with model.weights: so many epochs at first in which only the classifier learns", 0, typed_most=MANY
    )
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)


class SgdConfig(OptimConfig):
    """SGD."""

    momentum: float = number("of the velocity", least=0, below=1)
    nesterov: bool = flag("look ahead along the velocity")


class RmspropConfig(OptimConfig):
    """RMSprop as in TensorFlow."""

    momentum: float = number("of the update", least=0, below=1)
    alpha: float = number("decay of the mean square", least=0, below=1)
    eps: float = number("inside the square root", above=0, typed_most=1)


class AdamConfig(OptimConfig):
    """Adam and AdamW."""

    betas: list[float] = numbers(
        "decay of the mean and of the mean square",
        "a list of two numbers from 0, below 1",
        lambda betas: len(betas) == 2 and all(0 <= beta < 1 for beta in betas),
    )
    eps: float = number("outside the square root", above=0, typed_most=1)


class MuonConfig(OptimConfig):
    """Muon for pointwise kernels, SGD for the rest."""

    lr: float = number(
        "peak learning rate of the pointwise kernels: the length of an update as a share of the kernel's, which stays",
        above=0,
        most=1000,
    )
    weight_decay: float = number("L2, on the weights that SGD trains", least=0, most=10)
    momentum: float = number("of the pointwise kernels' updates", least=0, below=1)
    newton_schulz_steps: int = whole("towards an update that turns all directions alike; 3 are faster", 1, 20)
    sgd_lr: float = number(
        "peak learning rate of all else, for batches of 128: depthwise kernels, norms, biases, classifier",
        above=0,
        most=1000,
    )
    sgd_momentum: float = number("of its velocity", above=0, below=1)
