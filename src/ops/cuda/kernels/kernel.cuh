// What every file of kernels includes.
#pragma once

#include <cuda_fp16.h>
