"""Instance normalisation for training in bfloat16 on a CPU: the same sums as PyTorch's, without leaving channels-last.

PyTorch's own copies each tensor to channels-first and back, which takes half of a small network's step. The sums of the
backward pass are written as products of matrices, which the CPU does fast in bfloat16.
"""
import torch
from torch import nn


class ChannelsLastInstanceNorm(nn.InstanceNorm3d):
    """InstanceNorm3d with weights and without running statistics."""

    def forward(self, x):
        return Normalisation.apply(x, self.weight, self.bias, self.eps)


class Normalisation(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        batch, channels = x.shape[:2]
        y, mean, scale = torch.native_group_norm(x, weight.to(x.dtype), bias.to(x.dtype), batch, channels, x[0, 0].numel(), channels, eps)
        ctx.save_for_backward(x, weight, mean.float(), scale.float())
        return y

    @staticmethod
    def backward(ctx, upper):
        """With u the gradient from above, n voxels, and everything per sample and channel:
        dx = w s (u - mean(u) - x' mean(u x')), x' = s (x - m); dw = sum(u x'); db = sum(u)."""
        x, weight, mean, scale = ctx.saved_tensors
        flat_x, flat_u = as_rows(x), as_rows(upper)
        batch, voxels, _ = flat_x.shape
        bias_gradient = torch.bmm(flat_x.new_ones((batch, 1, voxels)), flat_u)[:, 0].float()
        products = torch.bmm(flat_u.transpose(1, 2), flat_x).diagonal(dim1=1, dim2=2).float()
        weight_gradient = scale * (products - mean * bias_gradient)
        of_u = weight * scale
        of_x = -of_u * scale * weight_gradient / voxels
        constant = -of_u * bias_gradient / voxels - of_x * mean
        gradient = torch.baddbmm(constant[:, None].to(x.dtype), flat_u, torch.diag_embed(of_u).to(x.dtype))
        gradient.baddbmm_(flat_x, torch.diag_embed(of_x).to(x.dtype))
        gradient = gradient.reshape(batch, *x.shape[2:], x.shape[1]).permute(0, 4, 1, 2, 3)
        return gradient, weight_gradient.sum(0), bias_gradient.sum(0), None


def as_rows(x):
    """(batch, channel, z, y, x) as (batch, voxel, channel), a view where memory is channels-last."""
    rows = x.contiguous(memory_format=torch.channels_last_3d).permute(0, 2, 3, 4, 1)
    return rows.reshape(x.shape[0], -1, x.shape[1])


def use_in(network):
    """Exchanges the forward and backward pass of every InstanceNorm3d; parameters and their names stay."""
    for module in network.modules():
        if type(module) is nn.InstanceNorm3d:
            module.__class__ = ChannelsLastInstanceNorm
