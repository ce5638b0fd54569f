#!/usr/bin/env python3
"""The table of marching-cubes surface elements that the PANTHER challenge's metrics use, as Rust.

Reads the normals of the triangles of every 2 x 2 x 2 neighbourhood from DeepMind's surface-distance 0.1 and writes their
magnitudes, which is all that areas depend on: nine kinds of triangle, and up to four kinds a neighbourhood, in the package's
order. Needs surface-distance (and numpy and scipy, which it imports) and rustfmt.

usage: make_surfel_table.py [src/evaluation/surfel_table.rs]
"""
import subprocess
import sys
from pathlib import Path

from surface_distance import lookup_tables

HEAD = '''//! The triangles of the surface between voxels, by marching cubes: data, made by `scripts/reference/make_surfel_table.py` from
//! `lookup_tables.py` of DeepMind's surface-distance 0.1 (Apache-2.0).

'''


def eighths(number):
    """the magnitude in eighths, which must be whole"""
    scaled = abs(number) * 8
    assert scaled == int(scaled), number
    return int(scaled)


def main():
    root = Path(__file__).resolve().parents[2]
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else root / "src/evaluation/surfel_table.rs"
    patches = [[tuple(map(eighths, normal)) for normal in patch] for patch in lookup_tables._NEIGHBOUR_CODE_TO_NORMALS]
    assert len(patches) == 256
    kinds = sorted({triangle for patch in patches for triangle in patch})
    assert kinds[0] == (0, 0, 0) and len(kinds) <= 16, kinds
    codes = ["0x" + "".join(f"{kinds.index(triangle):x}" for triangle in patch).rjust(4, "0") for patch in patches]
    text = HEAD
    text += "/// Magnitudes in eighths of a triangle's normal, (z, y, x); its length is the triangle's area where voxels are unit cubes.\n"
    text += f"pub(super) const TRIANGLES: [[u8; 3]; {len(kinds)}] = {[list(kind) for kind in kinds]};\n\n"
    text += "/// The triangles in each neighbourhood: four hexadecimal digits, each an index into [`TRIANGLES`].\n"
    text += f"pub(super) const NEIGHBOURHOODS: [u16; 256] = [{', '.join(codes)}];\n"
    target.write_text(text)
    subprocess.run(["rustfmt", "--edition", "2024", "--config-path", str(root), str(target)], check=True)


if __name__ == "__main__":
    main()
