"""PyTorch's layers, trained faster on a CPU where the compiled kernels apply: the same numbers to rounding."""

from torch import Tensor, nn

from mobilenet_train.models import kernels


class DepthwiseConv2d(nn.Conv2d):
    """(N, C, H, W) -> (N, C x multiplier, ceil(H / stride), ceil(W / stride)), a kernel or more for each channel."""

    def forward(self, x: Tensor) -> Tensor:
        one_each = self.in_channels == self.out_channels >= kernels.FEWEST_CHANNELS
        if self.kernel_size[0] in (3, 5) and one_each and self.weight.requires_grad and kernels.takes(x, self):
            return kernels.Depthwise.apply(x, self.weight, self.stride[0], self.padding[0])
        return super().forward(x)


class BatchNorm2d(nn.BatchNorm2d):
    """Batch-norm that takes the activation after it along: (N, C, H, W) -> the same shape."""

    def forward(self, x: Tensor, activation: nn.Module | None = None) -> Tensor:
        several = x.numel() > x.shape[1]  # torch refuses a single value for a channel, and says so
        if several and kernels.takes(x, self):
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            return kernels.NormActivation.apply(x, self.weight, self.bias, self, kernels.ACTIVATIONS[type(activation)])
        x = super().forward(x)
        return x if activation is None else activation(x)
