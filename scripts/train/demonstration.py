"""The trainers of trainers.py at the size of a demonstration: under four hours on two CPU cores, for the phantoms' weights.

What differs from the report's settings: fewer and shorter epochs, rates that fall linearly, a smaller head, light augmentation
without mirroring, bfloat16 with channels-last weights on the CPU, everything seeded. Several processes of one thread each share
the work (`Demonstration.join`): two with one thread train 1.7 times as fast as one with two. DEMONSTRATION_ITERATIONS sets
the iterations per epoch (rehearsals).
"""
import os

import numpy as np
import torch
import torch.distributed as dist
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform

import channels_last_norm
from trainers import (LESION, nnUNetTrainerMultiTask, nnUNetTrainerMultiTaskHead, nnUNetTrainerMultiTaskSegmentation,
                      nnUNetTrainerPancreas)

SEED = 20260
LESION_WEIGHT = 2.0  # of a lesion's voxel in the cross-entropy, where others have 1
TURN = 8 / 180 * np.pi  # largest rotation, radians
MARGIN = (4, 8, 8)  # voxels (z, y, x) by which a patch is read larger, so that rotating and scaling have what to bring in


class LinearDecay:
    """The rate of an epoch: from `first` in the first to `last` in the last. Called as nnU-Net calls its schedulers."""

    def __init__(self, optimizer, first, last, epochs):
        self.optimizer = optimizer
        self.rates = np.linspace(first, last, epochs)

    def step(self, epoch):
        for group in self.optimizer.param_groups:
            group["lr"] = float(self.rates[epoch])


class Demonstration:
    """What the trainers below share; stands before a trainer among the bases."""

    iterations, validation_iterations = 100, 12
    last_rate = 1e-5

    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cpu")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_iterations_per_epoch = int(os.environ.get("DEMONSTRATION_ITERATIONS", self.iterations))
        self.num_val_iterations_per_epoch = min(self.validation_iterations, self.num_iterations_per_epoch)
        self.save_every = 5
        self.seed(SEED)

    @staticmethod
    def seed(seed):
        np.random.seed(seed)
        torch.manual_seed(seed)

    def join(self, rank):
        """Makes this trainer one of those of the process group: each draws its own patches and all take the step of their mean
        gradient. The first writes log and checkpoint. (nnU-Net's own way to share work is for several GPUs.)"""
        self.local_rank = rank
        self.seed(SEED + 1000 * rank)

    def configure_optimizers(self):
        optimizer, _ = super().configure_optimizers()
        if dist.is_initialized():
            optimizer.register_step_pre_hook(average_gradients)
        return optimizer, LinearDecay(optimizer, self.first_rate, self.last_rate, self.num_epochs)

    def on_train_start(self):
        super().on_train_start()
        self.share_weights()

    def share_weights(self):
        if dist.is_initialized():
            apply_to_all([p.data for p in self.network.parameters()], lambda flat: dist.broadcast(flat, 0))

    def initialize(self):
        super().initialize()
        self.network.to(memory_format=torch.channels_last_3d)
        channels_last_norm.use_in(self.network)

    def autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16)

    def on_device(self, batch):
        images, targets = super().on_device(batch)
        return images.contiguous(memory_format=torch.channels_last_3d), targets

    def validation_step(self, batch):
        with self.autocast():
            return super().validation_step(batch)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):
        self.inference_allowed_mirroring_axes = None
        larger = [p + m for p, m in zip(self.configuration_manager.patch_size, MARGIN)]
        return (-TURN, TURN), False, larger, None

    @staticmethod
    def get_training_transforms(patch_size, rotation_for_DA, deep_supervision_scales, *_, **__):
        return ComposeTransforms([
            SpatialTransform(patch_size, patch_center_dist_from_border=0, random_crop=False, p_elastic_deform=0, p_rotation=0.2,
                             rotation=rotation_for_DA, p_scaling=0.2, scaling=(0.9, 1.1), p_synchronize_scaling_across_axes=1,
                             bg_style_seg_sampling=False, border_mode_seg="constant", padding_value_seg=-1),
            RandomTransform(GaussianNoiseTransform(noise_variance=(0, 0.05)), apply_probability=0.15),
            RandomTransform(MultiplicativeBrightnessTransform(BGContrast((0.9, 1.1)), synchronize_channels=True), 0.2),
            RandomTransform(ContrastTransform(BGContrast((0.85, 1.15)), preserve_range=True, synchronize_channels=True), 0.2),
            RemoveLabelTansform(-1, 0),
            DownsampleSegForDSTransform(ds_scales=deep_supervision_scales),
        ])

    def plot_network_architecture(self):
        """Nothing: hiddenlayer, which draws it, is not needed here."""


class nnUNetTrainerPancreasDemonstration(Demonstration, nnUNetTrainerPancreas):
    first_rate, epochs = 3e-3, 4


class nnUNetTrainerMultiTaskSegmentationDemonstration(Demonstration, nnUNetTrainerMultiTaskSegmentation):
    first_rate, last_rate, epochs = 2e-3, 1e-3, 7
    head_width, head_hidden = 64, 32


class nnUNetTrainerMultiTaskHeadDemonstration(Demonstration, nnUNetTrainerMultiTaskHead):
    """Besides, the head starts from standardised features: the means over a patch, which are all it sees, differ from patch to patch by
    a thirtieth of their size, too little to be found in so few iterations."""

    first_rate, last_rate, epochs = 1e-3, 5e-4, 3
    head_width, head_hidden = 64, 32
    step_before = "nnUNetTrainerMultiTaskSegmentationDemonstration"
    patches = 120

    def on_train_start(self):
        super().on_train_start()
        standardise(self.network, (self.on_device(next(self.dataloader_train))[0] for _ in range(self.patches // 2)))
        self.share_weights()


class nnUNetTrainerMultiTaskDemonstration(Demonstration, nnUNetTrainerMultiTask):
    """Besides, the lesion counts more in the segmentation's loss, and Dice is that of the whole batch: a few hundred voxels of half
    of the patches would need more iterations than there are. The head's loss counts less, since a head on standardised features sends
    back gradients that drown the segmentation's."""

    first_rate, epochs = 1e-3, 26
    head_width, head_hidden = 64, 32
    step_before = "nnUNetTrainerMultiTaskHeadDemonstration"
    class_share = 0.25

    def _build_loss(self):
        loss = super()._build_loss()
        weights = torch.ones(self.label_manager.num_segmentation_heads, device=self.device)
        weights[LESION] = LESION_WEIGHT
        loss.loss.ce.weight, loss.loss.dc.batch_dice = weights, True
        return loss


class nnUNetTrainerMultiTaskAgainDemonstration(nnUNetTrainerMultiTaskDemonstration):
    """The third step once more: a second, longer decay from nearly as high a rate finds what the first has missed. The head's
    gradients are small by now, so that its loss may count more."""

    first_rate, epochs = 7e-4, 44
    step_before = "nnUNetTrainerMultiTaskDemonstration"
    class_share = 0.5


def average_gradients(optimizer, *_):
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]

    def average(flat):
        dist.all_reduce(flat)
        flat /= dist.get_world_size()

    apply_to_all(gradients, average)


def apply_to_all(tensors, change):
    """Lays the tensors one behind the other, changes that in place and writes it back."""
    flat = torch.cat([t.flatten() for t in tensors])
    change(flat)
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors])):
        tensor.copy_(part.view_as(tensor))


@torch.no_grad()
def standardise(network, batches):
    """Initialises the head's convolutions: a channel's mean over a patch has mean 0 and deviation 1 over the patches of `batches` once
    projected from, and upsampling repeats voxels."""
    with torch.autocast("cpu", torch.bfloat16):
        pooled = [[stage.float().mean((2, 3, 4)) for stage in network.encoder(images)[:-4:-1]] for images in batches]
    for projection, means in zip(network.classifier.projections, zip(*pooled)):
        means = torch.cat(means)
        projection.weight /= means.std(0).clamp(min=1e-5)[:, None, None, None]
        projection.bias.copy_(-projection.weight[..., 0, 0, 0] @ means.mean(0))
    for upsampling in network.classifier.upsamplings:
        upsampling.weight.copy_(torch.eye(len(upsampling.weight))[..., None, None, None].expand_as(upsampling.weight))
        upsampling.bias.zero_()
