// Chooses the instance of the kernel that a call needs and launches it.
#include "low_rank.h"

#include <climits>
#include <cstdint>

#include "low_rank_kernel.cuh"

namespace mile {
namespace {

using Kernel = void (*)(const LowRankArguments);

template <typename Number, int RankTiles>
Kernel kernel_of_rank(int token_tiles, Access access) {
    switch (access) {
        case Access::kVectors:
            if constexpr (RankTiles <= 4) {
                if (token_tiles == 2) return low_rank_kernel<Number, RankTiles, 2, Access::kVectors>;
            }
            return low_rank_kernel<Number, RankTiles, 1, Access::kVectors>;
        case Access::kMapVectors:
            return low_rank_kernel<Number, RankTiles, 1, Access::kMapVectors>;
        default:
            return low_rank_kernel<Number, RankTiles, 1, Access::kNumbers>;
    }
}

template <typename Number>
Kernel kernel_of(const Plan& plan, Access access) {
    switch (plan.rank_tiles) {
        case 1:
            return kernel_of_rank<Number, 1>(plan.token_tiles, access);
        case 2:
            return kernel_of_rank<Number, 2>(plan.token_tiles, access);
        case 4:
            return kernel_of_rank<Number, 4>(plan.token_tiles, access);
        default:
            return kernel_of_rank<Number, 8>(plan.token_tiles, access);
    }
}

bool aligned(const void* address) { return reinterpret_cast<std::uintptr_t>(address) % sizeof(Vector) == 0; }

Access access_of(const LowRankCall& call, int vector) {
    if (call.shape.inputs % vector || call.shape.outputs % vector || !aligned(call.x) || !aligned(call.product) ||
        !aligned(call.bias) || !aligned(call.y))
        return Access::kNumbers;
    // Every row of the bank must begin at a vector, not only the first: which one is read is known on the device alone.
    const bool rows = aligned(call.bank) && call.row_length % vector == 0 && call.a_start % vector == 0;
    return rows && call.b_start % 2 == 0 && call.shape.rank % 2 == 0 ? Access::kVectors : Access::kMapVectors;
}

struct Device {
    int multiprocessors, capability;
};

cudaError_t current_device(Device& found) {
    int device = 0;
    cudaError_t error = cudaGetDevice(&device);
    if (error == cudaSuccess)
        error = cudaDeviceGetAttribute(&found.multiprocessors, cudaDevAttrMultiProcessorCount, device);
    if (error == cudaSuccess)
        error = cudaDeviceGetAttribute(&found.capability, cudaDevAttrComputeCapabilityMajor, device);
    return error;
}

bool fits(const LowRankCall& call) {
    const Shape& s = call.shape;
    if (s.samples < 0 || s.samples > 65535 || s.tokens < 0 || s.inputs < 1 || s.outputs < 1) return false;
    if (s.rank < 1 || s.rank > kLargestRank || call.experts < 1) return false;
    if (call.expert_bytes != 8 && call.expert_bytes != 4) return false;
    // Inside one sample's A, B and maps the kernel counts in 32 bits, up to a block past the end.
    const long long a = static_cast<long long>(s.rank) * s.inputs, b = static_cast<long long>(s.rank) * s.outputs;
    const long long most = INT_MAX - 4096;
    if (a > most || b > most || s.inputs > most || s.outputs > most || s.tokens > most) return false;
    const long long tokens = s.tokens;
    if (tokens * s.inputs > most || tokens * s.outputs > most) return false;
    return call.a_start >= 0 && call.b_start >= 0 && call.a_start + a <= call.row_length &&
           call.b_start + b <= call.row_length;
}

}  // namespace

cudaError_t low_rank(const LowRankCall& call, cudaStream_t stream) {
    if (!fits(call)) return cudaErrorInvalidValue;
    if (call.shape.samples == 0 || call.shape.tokens == 0) return cudaSuccess;
    Device device{};
    if (const cudaError_t error = current_device(device); error != cudaSuccess) return error;

    const int vector = call.type == NumberType::kHalf ? Half::kPerVector : Single::kPerVector;
    const Access access = access_of(call, vector);
    const Plan p = plan(call.shape, vector, access, device.multiprocessors);
    const Kernel kernel = call.type == NumberType::kHalf ? kernel_of<Half>(p, access) : kernel_of<Single>(p, access);
    LowRankArguments arguments{};
    arguments.product = call.product;
    arguments.bias = call.bias;
    arguments.x = call.x;
    arguments.bank = call.bank;
    arguments.expert = call.expert;
    arguments.y = call.y;
    arguments.row_length = call.row_length;
    arguments.a_start = call.a_start;
    arguments.b_start = call.b_start;
    arguments.experts = call.experts;
    arguments.tokens = call.shape.tokens;
    arguments.inputs = call.shape.inputs;
    arguments.outputs = call.shape.outputs;
    arguments.rank = call.shape.rank;
    arguments.chunk_share = p.chunk_share;
    arguments.part_width = p.part_width;
    arguments.block_share = p.block_share;
    arguments.expert_bytes = call.expert_bytes;
    void* parameters[] = {&arguments};
    cudaLaunchAttribute overlap{};
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(p.tiles, p.parts, call.shape.samples);
    config.blockDim = dim3(32 * p.warps);
    config.dynamicSmemBytes = p.shared_bytes;
    config.stream = stream;
    config.attrs = &overlap;
    config.numAttrs = call.overlap && device.capability >= 9 ? 1 : 0;
    return cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(kernel), parameters);
}

}  // namespace mile

extern "C" int mile_low_rank(int type, int samples, int tokens, int inputs, int outputs, int rank, int experts,
                             long long row_length, long long a_start, long long b_start, int expert_bytes,
                             const void* product, const void* bias, const void* x, const void* bank,
                             const void* expert, void* y, int overlap, void* stream) {
    const mile::LowRankCall call = {static_cast<mile::NumberType>(type),
                                    {samples, tokens, inputs, outputs, rank},
                                    experts,
                                    row_length,
                                    a_start,
                                    b_start,
                                    expert_bytes,
                                    product,
                                    bias,
                                    x,
                                    bank,
                                    expert,
                                    y,
                                    overlap != 0};
    return mile::low_rank(call, static_cast<cudaStream_t>(stream));
}
