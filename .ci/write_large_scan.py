"""Writes a scan of a usual size, 512 x 512 x 200 voxels of 0.8 x 0.8 x 1.5 mm, with the scan IN in its middle and
air around it. usage: write_large_scan.py IN.mha OUT.mha"""

import array
import sys
import zlib

SIZE_XYZ = (512, 512, 200)
SPACING_XYZ = (0.8, 0.8, 1.5)
AIR_HU = -1000


def read_scan(path):
    """Voxels (x fastest), size and spacing of a compressed little-endian MET_SHORT file."""
    with open(path, "rb") as file:
        header = {}
        while "ElementDataFile" not in header:
            key, _, value = file.readline().decode().partition("=")
            header[key.strip()] = value.strip()
        expected = {"ElementType": "MET_SHORT", "CompressedData": "True", "BinaryDataByteOrderMSB": "False"}
        got = {key: header.get(key) for key in expected}
        if got != expected:
            sys.exit(f"{path}: expected {expected}, got {got}")
        voxels = array.array("h", zlib.decompress(file.read()))
    return voxels, [int(n) for n in header["DimSize"].split()], [float(n) for n in header["ElementSpacing"].split()]


def nearest(axis, size, spacing):
    """For each index of the large scan along the axis, the nearest one of the small scan, or none outside."""
    middle = (SIZE_XYZ[axis] - 1) / 2
    offsets = ((i - middle) * SPACING_XYZ[axis] / spacing[axis] for i in range(SIZE_XYZ[axis]))
    indices = (round((size[axis] - 1) / 2 + offset) for offset in offsets)
    return [i if 0 <= i < size[axis] else None for i in indices]


def main(source, target):
    voxels, size, spacing = read_scan(source)
    xs, ys, zs = (nearest(axis, size, spacing) for axis in range(3))
    air_row = array.array("h", [AIR_HU] * len(xs)).tobytes()

    def row(y, z):
        if y is None or z is None:
            return air_row
        start = (z * size[1] + y) * size[0]
        return array.array("h", [AIR_HU if x is None else voxels[start + x] for x in xs]).tobytes()

    with open(target, "wb") as file:
        file.write(
            "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = False\n"
            "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\nCenterOfRotation = 0 0 0\nAnatomicalOrientation = RAI\n"
            f"ElementSpacing = {' '.join(map(str, SPACING_XYZ))}\nDimSize = {' '.join(map(str, SIZE_XYZ))}\n"
            "ElementType = MET_SHORT\nElementDataFile = LOCAL\n".encode()
        )
        for z in zs:
            file.write(b"".join(row(y, z) for y in ys))


if __name__ == "__main__":
    main(*sys.argv[1:])
