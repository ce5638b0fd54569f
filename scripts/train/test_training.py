#!/usr/bin/env python3
"""Tests of the network, its trainers' arithmetic and the preparation: test_training.py (seconds; needs torch, nnunetv2, SimpleITK)."""
import argparse
import tempfile
import unittest
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import distributed, multiprocessing, nn

import prepare
import train_demo
from channels_last_norm import ChannelsLastInstanceNorm
from demonstration import LinearDecay, average_gradients, standardise
from network import MultiTaskUNet
from trainers import area_under_roc, classes_of

STRIDES = [[1, 1, 1], [1, 2, 2], [2, 2, 2]]


def network(width=5, hidden=4):
    unet = PlainConvUNet(1, 3, [2, 3, 4], nn.Conv3d, 3, STRIDES, 1, 2, 1, conv_bias=True, norm_op=nn.InstanceNorm3d,
                         norm_op_kwargs={"affine": True}, nonlin=nn.LeakyReLU, deep_supervision=False)
    return unet, MultiTaskUNet(unet, width, hidden).eval()


class Network(unittest.TestCase):
    def test_segmentation_is_the_unets_own(self):
        unet, both = network()
        x = torch.randn(2, 1, 4, 8, 8)
        self.assertTrue(torch.equal(both(x), unet(x)))
        names = [n for n in both.state_dict() if not n.startswith("classifier.")]
        self.assertEqual(sorted(names), sorted(unet.state_dict()))

    def test_head_computes_what_its_description_says(self):
        _, both = network()
        deep, middle, shallow = both.encoder(torch.randn(1, 1, 4, 8, 8))[::-1]
        head = both.classifier
        x = head.upsamplings[0](head.projections[0](deep)) + head.projections[1](middle)
        x = (head.upsamplings[1](x) + head.projections[2](shallow)).mean((2, 3, 4))
        expected = head.output(torch.clamp(head.hidden(x), min=0))
        self.assertTrue(torch.allclose(head([shallow, middle, deep]), expected, atol=1e-6))
        self.assertEqual([u.stride for u in head.upsamplings], [(2, 2, 2), (1, 2, 2)])

    def test_head_takes_the_size_of_its_weights(self):
        (_, small), (_, large) = network(3, 2), network(7, 6)
        small.load_state_dict(large.state_dict())
        x = torch.randn(1, 1, 4, 8, 8)
        self.assertTrue(torch.equal(small.forward_class(x), large.forward_class(x)))

    def test_fewer_than_three_stages_are_refused(self):
        unet = PlainConvUNet(1, 2, [2, 3], nn.Conv3d, 3, STRIDES[:2], 1, 2, 1)
        with self.assertRaisesRegex(ValueError, "3 stages of the encoder, which has 2"):
            MultiTaskUNet(unet)

    def test_standardised_projections_have_mean_zero(self):
        _, both = network()
        images = [torch.randn(4, 1, 4, 8, 8) * k for k in (1, 3)]
        standardise(both, iter(images))
        with torch.no_grad():
            with torch.autocast("cpu", torch.bfloat16):
                features = [both.encoder(x)[0].float() for x in images]
            means = torch.cat([both.classifier.projections[2](x).mean((2, 3, 4)) for x in features])
        self.assertLess(float(means.mean(0).abs().max()), 0.01 * float(means.std(0).min()))


class Norm(unittest.TestCase):
    def test_equals_pytorchs(self):
        results = []
        for kind in (nn.InstanceNorm3d, ChannelsLastInstanceNorm):
            torch.manual_seed(0)
            norm = kind(6, affine=True)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            x = (2 * torch.randn(2, 6, 4, 5, 7) + 1).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
            y = norm(x)
            y.backward(torch.randn(y.shape))
            results.append((y.detach(), x.grad, norm.weight.grad, norm.bias.grad))
        for expected, got in zip(*results):
            self.assertTrue(torch.allclose(expected, got, rtol=1e-4, atol=1e-4))


def step_of_two(rank, folder):
    """One of two processes: a step whose gradient is 1 in the first and 3 in the second."""
    store = distributed.FileStore(str(folder / "store"), 2)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    weights = nn.Parameter(torch.arange(48.0).reshape(2, 3, 2, 2, 2).contiguous(memory_format=torch.channels_last_3d))
    optimizer = torch.optim.SGD([weights, nn.Parameter(torch.zeros(2))], 0.5)
    optimizer.register_step_pre_hook(average_gradients)
    weights.grad = weights.detach() * (1 + 2 * rank)  # the other parameter has none, like heads that the loss leaves out
    optimizer.step()
    torch.save(weights.data, folder / f"{rank}.pt")
    distributed.destroy_process_group()


class Sharing(unittest.TestCase):
    def test_processes_take_the_step_of_their_mean_gradient(self):
        with tempfile.TemporaryDirectory() as name:
            multiprocessing.spawn(step_of_two, (Path(name),), nprocs=2)
            for rank in range(2):
                weights = torch.load(Path(name) / f"{rank}.pt")
                self.assertTrue(torch.equal(weights, torch.zeros(2, 3, 2, 2, 2)))

    def test_rates_fall_from_the_first_epoch_to_the_last(self):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)
        decay, rates = LinearDecay(optimizer, 1.0, 0.2, 5), []
        for epoch in range(5):
            decay.step(epoch)
            rates.append(round(optimizer.param_groups[0]["lr"], 6))
        self.assertEqual(rates, [1.0, 0.8, 0.6, 0.4, 0.2])


class Scores(unittest.TestCase):
    def test_area_under_roc(self):
        self.assertEqual(area_under_roc([1, 2, 2, 3], [0, 0, 1, 1]), 0.875)
        self.assertTrue(np.isnan(area_under_roc([1, 2], [1, 1])))

    def test_a_patch_with_one_voxel_of_the_lesion_has_it(self):
        target = torch.zeros(3, 1, 2, 2, 2)
        target[1, 0, 1, 1, 1], target[2, 0, 0, 0, 0] = 1, 4
        self.assertEqual(classes_of([target]).tolist(), [0, 1, 0])


class Preparation(unittest.TestCase):
    def test_region_of_a_mask(self):
        scan = sitk.Image([100, 80, 40], sitk.sitkInt16)
        scan.SetSpacing([1.0, 1.5, 3.0])
        low = np.zeros((13, 27, 22), np.uint8)
        low[4:7, 10:12, 8:15] = 1
        mask = sitk.GetImageFromArray(low)
        mask.SetSpacing([4.5, 4.5, 9.0])
        # x: 8 * 4.5 = 36 to 14 * 4.5 = 63; y: 45 / 1.5 = 30 to 33; z: 36 / 3 = 12 to 18; margins 25, 25 / 1.5 = 16, 15 / 3 = 5
        self.assertEqual(prepare.region_of(scan, mask, [(25, 25), (25, 25), (15, 15)]), [(11, 88), (14, 49), (7, 23)])
        self.assertEqual(prepare.region_of(scan, mask, [(40, 0), (0, 100), (15, 90)]), [(0, 63), (30, 80), (7, 40)])
        self.assertIsNone(prepare.region_of(scan, sitk.Image([22, 27, 13], sitk.sitkUInt8), [(0, 0)] * 3))

    def test_low_resolution_of_labels(self):
        labels = np.zeros((8, 12, 12), np.uint8)
        labels[:4, :, :], labels[4:, :6, :], labels[4:, 6:, :] = 4, 2, 1
        image = sitk.GetImageFromArray(labels)
        image.SetSpacing([1.5, 1.5, 4.5])
        mask = sitk.GetArrayFromImage(prepare.lower_pancreas(image, (4.5, 4.5, 9.0)))
        self.assertEqual(mask.shape, (4, 4, 4))
        self.assertEqual(mask[:, 0, 0].tolist(), [1, 1, 0, 0])
        self.assertEqual(mask[:, 3, 0].tolist(), [1, 1, 1, 1])

    def test_margins(self):
        a = argparse.Namespace(margins=(100.0, 50.0, 15.0), shift=(20.0, 10.0, 5.0))
        self.assertEqual(prepare.margins_of(a, "case", 0).tolist(), [[100, 100], [50, 50], [15, 15]])
        shifted = prepare.margins_of(a, "case", 1)
        self.assertTrue((np.abs(shifted - np.array(a.margins)[:, None]) <= np.array(a.shift)[:, None]).all())
        self.assertFalse(np.array_equal(shifted, prepare.margins_of(a, "case", 2)))

    def test_folds_keep_patients_together(self):
        names = [f"{patient}_{scan}" for patient in range(100, 110) for scan in (1, 2)]
        folds = prepare.patient_folds(names)
        self.assertEqual(sorted(n for _, validation in folds for n in validation), sorted(names))
        for train, validation in folds:
            self.assertFalse({n[:3] for n in train} & {n[:3] for n in validation})

    def test_seeds_name_lesions_and_spacings(self):
        lesions = [prepare.lesion_of(s) for s in range(10000, 10100)]
        self.assertEqual([lesions.count(kind) for kind in ("no", "yes", "small")], [50, 40, 10])
        own = [s for s in range(10000, 10090) if prepare.spacing_of(s) is None]
        self.assertEqual({prepare.lesion_of(s) for s in own}, {"no", "yes", "small"})


class Log(unittest.TestCase):
    def test_an_epoch_is_a_line(self):
        text = ("2026-01-01 00:00:00.000001: Epoch 0\n2026-01-01 00:00:00.2: Current learning rate: 0.001\n"
                "2026-01-01 00:00:01.5: train_loss -0.25\n2026-01-01 00:00:01.6: Pseudo dice [np.float32(0.5), np.float32(0.25)]\n"
                "2026-01-01 00:00:01.7: Epoch time: 3.0 s\n2026-01-01 00:00:02.0: Epoch 1\n")
        self.assertEqual(train_demo.condensed(text),
                         "Epoch 0 | Current learning rate: 0.001 | train_loss -0.25 | Pseudo dice [0.5, 0.25]\nEpoch 1")


if __name__ == "__main__":
    unittest.main()
