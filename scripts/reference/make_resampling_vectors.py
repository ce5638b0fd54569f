#!/usr/bin/env python3
"""Golden vectors for tests/resampling.rs: what nnU-Net's and ITK's own functions make of small arrays.

    python make_resampling_vectors.py tests/golden/resampling/vectors.safetensors

Needs nnunetv2, SimpleITK, safetensors (made with nnunetv2 2.8.1, scikit-image 0.26.0, torch 2.15.0, SimpleITK 2.5.7).
The file's metadata entry "index" is JSON: lists "resample", "itk", "new_shape", "separate_axis". Arrays of a case are
called by its "input" and "output" entries. Images are (channel, z, y, x) or (z, y, x); spacings are in array order.
"""
import json
import sys

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.preprocessing.resampling.default_resampling import (
    compute_new_shape, determine_do_sep_z_and_axis, resample_data_or_seg_to_shape)
from nnunetv2.preprocessing.resampling.resample_torch import resample_torch_fornnunet
from safetensors.numpy import save_file
from scipy import ndimage

# shape, new shape, current spacing, new spacing
CASES = [
    ((11, 16, 13), (15, 11, 18), (2.0, 1.0, 1.0), (1.5, 1.5, 0.8)),
    ((5, 14, 16), (13, 17, 12), (6.0, 1.2, 1.2), (2.2, 1.0, 1.6)),    # separate: axis 0 of the current spacing
    ((17, 14, 16), (5, 17, 12), (1.5, 1.2, 1.2), (5.0, 1.0, 1.6)),    # separate: axis 0 of the new spacing
    ((12, 9, 11), (15, 9, 10), (1.0, 4.5, 1.1), (0.8, 4.5, 1.3)),     # separate: axis 1, its length unchanged
    ((12, 5, 11), (10, 9, 14), (1.0, 4.5, 1.1), (1.2, 2.5, 0.9)),     # separate: axis 1
    ((12, 13, 5), (10, 14, 9), (1.0, 1.0, 4.0), (1.3, 0.9, 2.2)),     # separate: axis 2
    ((8, 9, 10), (15, 9, 10), (4.0, 1.0, 1.0), (2.0, 1.0, 1.0)),      # separate: planes unchanged
    ((8, 8, 30), (8, 10, 12), (4.0, 4.0, 1.0), (4.0, 3.2, 2.5)),      # two coarse axes: not separate
    ((1, 12, 12), (3, 20, 7), (2.0, 1.0, 1.0), (1.0, 0.6, 1.7)),      # one slice
    ((1, 12, 12), (4, 9, 13), (5.0, 1.0, 1.0), (1.0, 1.3, 0.9)),      # one slice, separate
    ((2, 9, 8), (7, 9, 3), (2.0, 1.0, 1.0), (0.6, 1.0, 2.6)),         # two slices
    ((9, 2, 1), (4, 11, 6), (1.0, 1.0, 1.0), (2.2, 0.2, 0.2)),
    ((31, 26, 23), (3, 2, 1), (1.0, 1.0, 1.0), (10.0, 13.0, 23.0)),   # far down
    ((3, 4, 5), (16, 19, 21), (2.0, 2.0, 2.0), (0.4, 0.4, 0.5)),      # far up
    ((2, 2, 300), (2, 3, 421), (1.0, 1.5, 1.4), (1.0, 1.0, 1.0)),     # a long axis: torch's single-precision positions
    ((2, 2, 421), (3, 2, 300), (1.0, 1.5, 1.4), (1.0, 1.0, 1.0)),
    ((5, 6, 7), (5, 6, 7), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),         # untouched
]

# image shape (z, y, x), spacing, new spacing (x, y, z), origin, rotation about z in degrees
ITK_CASES = [
    ((14, 22, 26), (1.7, 1.9, 3.0), (4.5, 4.5, 9.0), (0.0, 0.0, 0.0), 0),
    ((14, 22, 26), (1.7, 1.9, 3.0), (3.0, 3.1, 4.0), (-120.5, 33.25, 700.0), 0),
    ((14, 22, 26), (1.7, 1.9, 3.0), (1.2, 1.1, 2.0), (-120.5, 33.25, 700.0), 17),
    ((5, 11, 12), (5.5, 5.0, 25.0), (4.5, 4.5, 9.0), (10.0, -20.0, 5.0), 0),   # outside at the far border
    ((6, 5, 7), (1.0, 1.0, 1.0), (0.25, 0.5, 0.125), (0.0, 0.0, 0.0), 0),       # ends exactly between in and outside
    ((1, 12, 13), (1.0, 1.0, 5.0), (1.5, 0.8, 9.0), (0.0, 0.0, 0.0), 0),        # one slice
    ((1, 8, 9), (1.0, 1.0, 9.0), (0.7, 1.0, 2.0), (0.0, 0.0, 0.0), 0),          # one slice becomes several
    ((2, 8, 9), (1.0, 1.0, 9.0), (0.7, 1.0, 18.0), (0.0, 0.0, 0.0), 0),         # two slices become one
    ((3, 8, 2), (1.0, 1.0, 2.0), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), 0),          # x, y unchanged
    ((4, 5, 6), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), 0),          # untouched
    ((3, 4, 5), (0.7, 0.7, 1.0), (4.5, 4.5, 9.0), (0.0, 0.0, 0.0), 0),          # smaller than an output voxel
]

rng = np.random.default_rng(7)
arrays = {}
index = {"resample": [], "itk": [], "new_shape": [], "separate_axis": []}


def field(*shape):
    """smooth noise of standard deviation about 3, with a plateau to clip at"""
    return np.minimum(ndimage.gaussian_filter(rng.normal(size=shape), 0.6).astype(np.float32) * 8, np.float32(4))


def store(name, array):
    arrays[name] = np.ascontiguousarray(array)
    return name


def add_resample(name, x, case, function, force, order=None):
    _, shape, current, new = case
    if function == "default":
        y = resample_data_or_seg_to_shape(arrays[x], shape, current, new, False, order, 0, force)
    else:
        y = resample_torch_fornnunet(arrays[x], shape, current, new, False, force_separate_z=force)
    index["resample"].append({
        "input": x, "output": store(name, y), "new_shape": shape, "current_spacing": current, "new_spacing": new,
        "function": function, "force_separate_z": force, "order": order})


def make_resample():
    for n, case in enumerate(CASES):
        x = store(f"resample{n}.image", field(1, *case[0]))
        h = store(f"resample{n}.logits", field(3, *case[0]).astype(np.float16))
        for order in (0, 1, 3):
            add_resample(f"resample{n}.order{order}", x, case, "default", None, order)
        add_resample(f"resample{n}.logits_order1", h, case, "default", None, 1)
        for force in (None, False):
            add_resample(f"resample{n}.torch_{force}", x, case, "torch", force)
        if n in (1, 4, 5, 7):
            add_resample(f"resample{n}.logits_order3", h, case, "default", None, 3)
            add_resample(f"resample{n}.order3_together", x, case, "default", False, 3)
        if n == 0:
            add_resample(f"resample{n}.order3_separate", x, case, "default", True, 3)
            add_resample(f"resample{n}.torch_separate", x, case, "torch", True)


def make_itk():
    for n, (shape, old, new, origin, degrees) in enumerate(ITK_CASES):
        x = field(*shape) * 200
        im = sitk.GetImageFromArray(x)
        im.SetSpacing(old)
        im.SetOrigin(origin)
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        im.SetDirection((c, -s, 0, s, c, 0, 0, 0, 1))
        f = sitk.ResampleImageFilter()
        f.SetOutputSpacing(new)
        f.SetSize([max(1, int(np.round(k * (a / b)))) for k, a, b in zip(im.GetSize(), old, new)])
        f.SetOutputDirection(im.GetDirection())
        f.SetOutputOrigin(origin)
        f.SetTransform(sitk.Transform())
        f.SetDefaultPixelValue(8)
        f.SetInterpolator(sitk.sitkBSpline)
        y = sitk.GetArrayFromImage(f.Execute(im))
        index["itk"].append({"input": store(f"itk{n}.image", x), "output": store(f"itk{n}.resampled", y),
                             "spacing": old[::-1], "new_spacing": new[::-1], "outside": 8})


def make_decisions():
    spacings = (0.5, 0.8, 1.0, 1.4, 2.5, 3.0, 4.5, 9.0)
    for _ in range(150):
        shape = rng.integers(1, 600, 3).tolist()
        old, new = rng.choice(spacings, 3).tolist(), rng.choice(spacings, 3).tolist()
        index["new_shape"].append([shape, old, new, compute_new_shape(shape, old, new).tolist()])
    for _ in range(200):
        force = rng.choice([None, None, None, True, False])
        current, new = rng.choice(spacings, 3).tolist(), rng.choice(spacings, 3).tolist()
        separate, axis = determine_do_sep_z_and_axis(force, current, new)
        index["separate_axis"].append([force, current, new, int(axis) if separate else None])


def main():
    torch.set_num_threads(1)
    make_resample()
    make_itk()
    make_decisions()
    save_file(arrays, sys.argv[1], {"index": json.dumps(index)})


if __name__ == "__main__":
    sys.exit(main())
