"""nnU-Net v2 trainers for both stages of the PANORAMA report (Yu, Ma, Fu and Wang); found through `nnUNet_extTrainer`.

    nnUNetTrainerPancreas               stage 1: segmentation of the pancreas at low resolution
    nnUNetTrainerMultiTaskSegmentation  stage 2, step 1: segmentation, the classification head frozen
    nnUNetTrainerMultiTaskHead          step 2: the head, all else frozen
    nnUNetTrainerMultiTask              step 3: everything

Steps 2 and 3 start from the step before's `checkpoint_final.pth` of the same dataset, plans, configuration and fold; the
variable MULTITASK_START_FROM names another file. (nnU-Net's `-pretrained_weights` would leave out the segmentation layers.)

From the report: Adam, 0.01 and 0.0003, a tenth every 75 epochs, 1000 epochs, Dice + cross-entropy, cross-entropy weighted
1:3 for the head. Not in it, chosen here: no weight decay; the two losses of step 3 are added as they are; the class of a
patch is whether it holds a voxel of the lesion. Augmentation, deep supervision and 250 iterations per epoch are nnU-Net's.
"""
import os
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from nnunetv2.paths import nnUNet_results
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from network import MultiTaskUNet

LESION = 1  # label of the lesion, in PANORAMA's labels
CLASS_WEIGHTS = (1.0, 3.0)  # non-PDAC : PDAC
START_VARIABLE = "MULTITASK_START_FROM"


class StepDecay:
    """The rate of an epoch: a tenth of it is left after every `every` epochs. Called as nnU-Net calls its schedulers."""

    def __init__(self, optimizer, first, every):
        self.optimizer, self.first, self.every = optimizer, first, every

    def step(self, epoch):
        for group in self.optimizer.param_groups:
            group["lr"] = self.first * 0.1 ** (epoch // self.every)


class nnUNetTrainerPancreas(nnUNetTrainer):
    """Stage 1, and what all trainers here share: Adam, its decay, and a step that subclasses give other losses."""

    first_rate, decay_every, epochs = 1e-2, 75, 1000

    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cuda")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        if self.is_ddp:
            raise RuntimeError(f"{type(self).__name__} trains on one device, not on several (-num_gpus 1)")
        self.initial_lr, self.num_epochs, self.weight_decay = self.first_rate, self.epochs, 0.0

    def trained_parameters(self):
        return list(self.network.parameters())

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.trained_parameters(), self.initial_lr, weight_decay=self.weight_decay)
        return optimizer, StepDecay(optimizer, self.initial_lr, self.decay_every)

    def autocast(self):
        """Precision of the network's sums; losses are always float32."""
        return torch.autocast("cuda") if self.device.type == "cuda" else nullcontext()

    def on_device(self, batch):
        """(images, targets): the segmentations of a batch are a list, of full resolution first."""
        targets = [t.to(self.device, non_blocking=True) for t in batch["target"]]
        return batch["data"].to(self.device, non_blocking=True), targets

    def batch_loss(self, images, targets):
        with self.autocast():
            answers = self.network(images)
        return self.loss([a.float() for a in answers], targets)

    def train_step(self, batch):
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.batch_loss(*self.on_device(batch))
        if self.grad_scaler is None:
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.trained_parameters(), 12)
            self.optimizer.step()
        else:
            self.grad_scaler.scale(loss).backward()
            self.grad_scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.trained_parameters(), 12)
            self.grad_scaler.step(self.optimizer)
            self.grad_scaler.update()
        return {"loss": loss.detach().cpu().numpy()}


class nnUNetTrainerMultiTaskSegmentation(nnUNetTrainerPancreas):
    """Stage 2, step 1: encoder and decoder; the head stays as it was initialised."""

    first_rate = 3e-4
    head_width, head_hidden = 256, 256
    trained = ("encoder", "decoder")
    step_before = None

    @classmethod
    def build_network_architecture(cls, plans_manager, configuration_manager, num_input_channels, num_output_channels,
                                   enable_deep_supervision=True):
        unet = nnUNetTrainer.build_network_architecture(plans_manager, configuration_manager, num_input_channels,
                                                        num_output_channels, enable_deep_supervision)
        return MultiTaskUNet(unet, cls.head_width, cls.head_hidden)

    def _do_i_compile(self):
        return False  # torch.compile sees `forward` only, and the head is not in it

    def trained_parameters(self):
        parameters = (p for name in self.trained for p in getattr(self.network, name).parameters())
        return list(dict.fromkeys(parameters))  # each once: nnU-Net's decoder holds the encoder too

    def configure_optimizers(self):
        self.network.requires_grad_(False)
        for parameter in self.trained_parameters():
            parameter.requires_grad_(True)
        return super().configure_optimizers()

    def on_train_start(self):
        super().on_train_start()
        if self.step_before and self.current_epoch == 0:
            self.start_from(os.environ.get(START_VARIABLE) or self.checkpoint_before())

    def checkpoint_before(self):
        folder = f"{self.step_before}__{self.plans_manager.plans_name}__{self.configuration_name}"
        return Path(nnUNet_results) / self.plans_manager.dataset_name / folder / f"fold_{self.fold}" / "checkpoint_final.pth"

    def start_from(self, path):
        """Takes all weights of a checkpoint, but neither its optimizer nor its epoch."""
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: {type(self).__name__} starts from this checkpoint; train {self.step_before} "
                                    f"first, or name another in {START_VARIABLE}")
        weights = torch.load(path, map_location=self.device, weights_only=False)["network_weights"]
        # The network would fit its head to theirs, and the optimizer would go on with the head that it was given.
        own, theirs = (state["classifier.hidden.weight"].shape for state in (self.network.state_dict(), weights))
        if own != theirs:
            raise ValueError(f"{path}: classifier.hidden.weight is {tuple(theirs)}, expected the {tuple(own)} of "
                             f"{type(self).__name__}")
        self.network.load_state_dict(weights)
        self.print_to_log_file("weights of", path)


class nnUNetTrainerMultiTaskHead(nnUNetTrainerMultiTaskSegmentation):
    """Stage 2, step 2: the classification head alone."""

    trained = ("classifier",)
    step_before = "nnUNetTrainerMultiTaskSegmentation"

    def initialize(self):
        super().initialize()
        weights = torch.tensor(CLASS_WEIGHTS, device=self.device)
        self.class_loss = nn.CrossEntropyLoss(weight=weights)

    def batch_loss(self, images, targets):
        with self.autocast():
            class_logits = self.network.forward_class(images)
        return self.class_loss(class_logits.float(), classes_of(targets))

    def validation_step(self, batch):
        """nnU-Net's figures of the segmentation, and the head's scores of the patches."""
        images, targets = self.on_device(batch)
        classes = classes_of(targets)
        with self.autocast():
            class_logits = self.network.forward_class(images).float()
        return super().validation_step(batch) | {
            "class_loss": self.class_loss(class_logits, classes).item(),
            "class_scores": (class_logits[:, 1] - class_logits[:, 0]).tolist(), "classes": classes.tolist()}

    def on_validation_epoch_end(self, val_outputs):
        super().on_validation_epoch_end(val_outputs)
        scores, classes = ([v for o in val_outputs for v in o[key]] for key in ("class_scores", "classes"))
        loss = np.mean([o["class_loss"] for o in val_outputs])
        self.print_to_log_file(f"head: class loss {loss:.4f}, AUROC {area_under_roc(scores, classes):.4f} "
                               f"({sum(classes)} of {len(classes)} patches with lesion)")


class nnUNetTrainerMultiTask(nnUNetTrainerMultiTaskHead):
    """Stage 2, step 3: everything."""

    trained = ("encoder", "decoder", "classifier")
    step_before = "nnUNetTrainerMultiTaskHead"
    class_share = 1.0  # of the head's loss in the sum

    def batch_loss(self, images, targets):
        with self.autocast():
            answers, class_logits = self.network.forward_both(images)
        segmentation = self.loss([a.float() for a in answers], targets)
        return segmentation + self.class_share * self.class_loss(class_logits.float(), classes_of(targets))


def classes_of(targets):
    """Class of each patch, (batch): 1 where its segmentation of full resolution holds a voxel of the lesion."""
    return (targets[0] == LESION).flatten(1).any(1).long()


def area_under_roc(scores, classes):
    """Mann-Whitney's statistic, ties counted half; NaN where one class is missing."""
    scores, classes = np.asarray(scores), np.asarray(classes, bool)
    with_lesion, without = scores[classes], scores[~classes]
    if len(with_lesion) == 0 or len(without) == 0:
        return float("nan")
    differences = with_lesion[:, None] - without[None]
    return float(np.mean((differences > 0) + 0.5 * (differences == 0)))
