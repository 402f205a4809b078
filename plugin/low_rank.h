// The low-rank path as one kernel: how to launch it.
#pragma once

#include <cuda_runtime_api.h>

#include "low_rank_plan.h"

namespace mile {

enum class NumberType : int { kHalf = 0, kSingle = 1 };

struct LowRankCall {
    NumberType type;
    Shape shape;
    int experts;
    long long row_length, a_start, b_start;
    int expert_bytes;  // 8 for int64 indices, 4 for int32
    const void *product, *bias, *x, *bank, *expert;
    void* y;
    // From compute capability 9.0 on: blocks may be placed while the kernel before still runs (programmatic dependent
    // launch). Memory is read and written only when that kernel is complete, so results are the same.
    bool overlap = false;
};

// Launches on `stream` and returns without waiting. Nothing is allocated, so the call may be captured in a CUDA graph.
// cudaErrorInvalidValue: rank outside 1..64, a row too short for A and B, or a size that is negative or too large.
cudaError_t low_rank(const LowRankCall& call, cudaStream_t stream);

}  // namespace mile

// The same for callers without C++: Python's ctypes. Returns a cudaError_t.
extern "C" __attribute__((visibility("default"))) int mile_low_rank(int type, int samples, int tokens, int inputs, int outputs, int rank, int experts,
                             long long row_length, long long a_start, long long b_start, int expert_bytes,
                             const void* product, const void* bias, const void* x, const void* bank,
                             const void* expert, void* y, int overlap, void* stream);
