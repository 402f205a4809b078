// How the low-rank path is cut into blocks and warps: plain C++, shared by the launcher, the plugin and the tests.
#pragma once

#ifdef __CUDACC__
#define MILE_BOTH_SIDES __host__ __device__
#else
#define MILE_BOTH_SIDES
#endif

namespace mile {

constexpr int kLargestRank = 64;
constexpr int kLargestWarps = 8;
// Tokens of one tensor-core tile.
constexpr int kTileTokens = 16;

MILE_BOTH_SIDES constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

struct Shape {
    int samples, tokens, inputs, outputs, rank;
};

// What may be read 16 bytes at a time. kVectors: all of it. kMapVectors: x, product, bias and y, while rows of the bank
// begin anywhere or the rank is odd; numbers of A and B are then read one by one, from the caches. kNumbers: nothing.
enum class Access : int { kVectors = 0, kMapVectors = 1, kNumbers = 2 };

struct Plan {
    int rank_tiles;   // of eight ranks: 1, 2, 4 or 8
    int token_tiles;  // of sixteen tokens, per block: 1 or 2
    int warps;        // per block
    int parts;        // the outputs are cut into so many, one block each: grid.y
    int part_width;   // blocks of outputs (of 4 vectors each) in one part
    int tiles;        // blocks along a sample's tokens: grid.x; grid.z is the sample
    int chunk_share;   // chunks of inputs (of 4 vectors each) per warp
    int block_share;   // blocks of outputs per warp
    int shared_bytes;
};

#ifndef __CUDACC_RTC__
// Args: numbers per 16-byte vector (8 for fp16, 4 for fp32); multiprocessors of the device.
inline Plan plan(const Shape& shape, int vector, Access access, int multiprocessors) {
    Plan p{};
    p.rank_tiles = shape.rank <= 8 ? 1 : shape.rank <= 16 ? 2 : shape.rank <= 32 ? 4 : 8;
    // Every block fetches A and B. Larger tiles fetch them less often, as long as each multiprocessor still has two.
    const long long enough = 2LL * multiprocessors, samples = shape.samples;
    const bool many = samples * ceil_div(shape.tokens, 2 * kTileTokens) >= enough;
    p.token_tiles = access == Access::kVectors && p.rank_tiles <= 4 && many ? 2 : 1;
    p.tiles = ceil_div(shape.tokens, p.token_tiles * kTileTokens);
    // A wide layer (an MLP's first) on a small map: cutting the outputs fills the device, and reads x again.
    const int chunks = ceil_div(shape.inputs, 4 * vector), blocks = ceil_div(shape.outputs, 4 * vector);
    p.parts = 1;
    while (samples * p.tiles * p.parts < enough && p.parts + 1 <= shape.outputs / shape.inputs) ++p.parts;
    p.part_width = ceil_div(blocks, p.parts);
    p.parts = ceil_div(blocks, p.part_width);
    // The inputs are divided among the warps, then the outputs; the fewest warps with the fewest rounds of both.
    int fewest = chunks + p.part_width + 1;
    for (int warps = 1; warps <= kLargestWarps; ++warps) {
        const int rounds = ceil_div(chunks, warps) + ceil_div(p.part_width, warps);
        if (rounds < fewest) fewest = rounds, p.warps = warps;
    }
    p.chunk_share = ceil_div(chunks, p.warps);
    p.block_share = ceil_div(p.part_width, p.warps);
    p.shared_bytes = p.warps * p.rank_tiles * p.token_tiles * kTileTokens * 8 * 4;
    return p;
}
#endif

}  // namespace mile
