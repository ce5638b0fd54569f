// Where a tile lies in the image and how it is mirrored.
#pragma once

#include "kernel.cuh"

// One run of the network: a tile and a mirroring. Its first voxel (z, y, x) in the image may be negative.
struct Job {
  int z, y, x;
  // 1: mirrored along z, 2: along y, 4: along x.
  unsigned mirrored;
};

// Grid (z, y, x).
struct Grid {
  unsigned depth, height, width;
};

__device__ __forceinline__ size_t voxels_of(Grid grid) {
  return static_cast<size_t>(grid.depth) * grid.height * grid.width;
}

// Position of a voxel of the tile, and of its mirror image.
__device__ __forceinline__ Job voxel_of(unsigned index, Grid tile) {
  Job at;
  at.x = static_cast<int>(index % tile.width);
  at.y = static_cast<int>(index / tile.width % tile.height);
  at.z = static_cast<int>(index / tile.width / tile.height);
  at.mirrored = 0;
  return at;
}

__device__ __forceinline__ Job mirrored(Job at, unsigned axes, Grid tile) {
  at.z = axes & 1u ? static_cast<int>(tile.depth) - 1 - at.z : at.z;
  at.y = axes & 2u ? static_cast<int>(tile.height) - 1 - at.y : at.y;
  at.x = axes & 4u ? static_cast<int>(tile.width) - 1 - at.x : at.x;
  return at;
}

__device__ __forceinline__ size_t index_in(Job at, Grid grid) {
  return (static_cast<size_t>(at.z) * grid.height + at.y) * grid.width + at.x;
}

// The voxel of the image under a voxel of a tile that starts at `start`: whether there is one.
__device__ __forceinline__ bool in_image(Job start, Job &at, Grid image) {
  at.z += start.z, at.y += start.y, at.x += start.x;
  return at.z >= 0 && at.y >= 0 && at.x >= 0 && static_cast<unsigned>(at.z) < image.depth &&
         static_cast<unsigned>(at.y) < image.height && static_cast<unsigned>(at.x) < image.width;
}
