// The kernel's launcher, its launches carried out by simt.h: what CUDA's runtime would do, for one kernel.
#pragma once

#define MILE_PRIMITIVES "simt.h"
#include "low_rank.cu"

namespace mile {
float low_rank_sums[1 << 14];
}

static int processors;
static std::mt19937 random_order(7);

cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr what, int) {
    return *value = what == cudaDevAttrMultiProcessorCount ? processors : 9, cudaSuccess;
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel, void** parameters) {
    const dim3 grid = config->gridDim, block = config->blockDim;
    const size_t shared = config->dynamicSmemBytes;
    if (shared > sizeof(mile::low_rank_sums) || shared > 48 * 1024) return cudaErrorInvalidValue;
    const auto call = reinterpret_cast<void (*)(const mile::LowRankArguments)>(const_cast<void*>(kernel));
    const auto& arguments = *static_cast<mile::LowRankArguments*>(parameters[0]);
    simt::body = [&] { call(arguments); };
    blockDim = block;
    for (unsigned z = 0; z < grid.z; ++z)
        for (unsigned y = 0; y < grid.y; ++y)
            for (unsigned x = 0; x < grid.x; ++x) {
                blockIdx = {x, y, z};
                // Whatever an earlier block left in shared memory must not matter.
                std::fill(std::begin(mile::low_rank_sums), std::end(mile::low_rank_sums), NAN);
                simt::run_block(block.x, random_order);
            }
    return cudaSuccess;
}
