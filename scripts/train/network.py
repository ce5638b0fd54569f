"""The multi-task network: one encoder, nnU-Net's segmentation decoder, and a head that classifies the whole patch.

After the PANORAMA report of Yu, Ma, Fu and Wang, whose code was not published. The head reads the last three stages of the
encoder. Each passes through a 1x1x1 convolution to `width` channels; the deepest is upsampled by a transposed convolution
and added to the middle one, their sum upsampled and added to the shallow one. The mean over all voxels then goes through
two linear layers. Nothing stands between the convolutions, neither norm nor activation.
"""
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import nn

CLASSES = 2  # 0: no lesion in the patch, 1: PDAC


class ClassificationHead(nn.Module):
    """Two logits per patch from the encoder's last three stages.

    channels: those of the deepest, middle and shallow stage, in this order.
    strides:  those with which the encoder enters the deepest and the middle stage, each (z, y, x).
    """

    def __init__(self, channels, strides, width, hidden):
        super().__init__()
        self.channels, self.strides = list(channels), [as_triple(s) for s in strides]
        self.projections = nn.ModuleList(nn.Conv3d(c, width, 1) for c in self.channels)
        self.upsamplings = nn.ModuleList(nn.ConvTranspose3d(width, width, s, stride=s) for s in self.strides)
        self.hidden = nn.Linear(width, hidden)
        self.output = nn.Linear(hidden, CLASSES)
        self.apply(InitWeights_He(1e-2))

    def forward(self, stages):
        """(batch, 2) logits; `stages` are the encoder's outputs, the deepest last."""
        x = self.projections[0](stages[-1])
        for step, upsample in enumerate(self.upsamplings, start=1):
            x = upsample(x) + self.projections[step](stages[-1 - step])
        return self.output(nn.functional.relu(self.hidden(x.mean(dim=(2, 3, 4)))))


class MultiTaskUNet(nn.Module):
    """A U-Net of dynamic_network_architectures with a classification head.

    The members `encoder` and `decoder` are the U-Net's own, so the names of its parameters are those that nnU-Net gives them.
    """

    def __init__(self, unet, width=256, hidden=256):
        super().__init__()
        self.encoder, self.decoder = unet.encoder, unet.decoder
        self.classifier = self._build_head(width, hidden)
        self.register_load_state_dict_pre_hook(fit_head_to_weights)

    def _build_head(self, width, hidden):
        channels, strides = self.encoder.output_channels, self.encoder.strides
        if len(channels) < 3:
            raise ValueError(f"the classification head reads 3 stages of the encoder, which has {len(channels)}")
        return ClassificationHead(channels[:-4:-1], strides[:-3:-1], width, hidden)

    def forward(self, x):
        """What nnU-Net's network returns: segmentation logits, a list of them under deep supervision."""
        return self.decoder(self.encoder(x))

    def forward_both(self, x):
        """(what `forward` returns, class logits (batch, 2)), with one pass of the encoder."""
        stages = self.encoder(x)
        return self.decoder(stages), self.classifier(stages)

    def forward_class(self, x):
        """Class logits (batch, 2) without the decoder."""
        return self.classifier(self.encoder(x))


def as_triple(stride):
    return (stride,) * 3 if isinstance(stride, int) else tuple(int(s) for s in stride)


def fit_head_to_weights(network, state, prefix, *_):
    """Rebuilds the head at the size of the weights about to be loaded: plans files do not tell it."""
    weights = state.get(prefix + "classifier.hidden.weight")
    if weights is None or weights.shape == network.classifier.hidden.weight.shape:
        return
    hidden, width = weights.shape
    own = network.classifier.hidden.weight
    network.classifier = network._build_head(width, hidden).to(device=own.device, dtype=own.dtype)
