// y = product + bias + (x A^T) B^T in one pass over the maps: what the ONNX function mile::LowRank means.
//
// Memory decides the time. x and product are read once and y is written once, in 16-byte accesses; A and B come from L2.
// A block takes 16 or 32 tokens of one sample:
//   down   its warps divide the inputs. x (16 tokens x 4 vectors) times A^T (8 ranks) on tensor cores, straight from
//          global memory: which input stands at which place of the product is free as long as x and A agree, so each
//          thread's operands are one 16-byte vector of either.
//   sum    the warps' partial sums meet in shared memory, added in warp order: the same bits every time.
//   up     its warps divide the outputs. The columns of B^T are taken in an order that leaves each thread with one
//          16-byte vector of outputs for two tokens. The accumulators start as product + bias.
// The first product, x and B are on their way before the first result is waited for.
//
// A thread is (row, quad) = (lane / 4, lane % 4) as in PTX's layouts of mma: it holds tokens row and row + 8.
#pragma once

#include "low_rank_thread.cuh"

namespace mile {

// How many chunks of inputs and blocks of outputs a warp has in flight: as many as the registers of two blocks to a
// multiprocessor hold. ViT-B's 768 inputs are three chunks to a warp.
template <int RankTiles, int TokenTiles, Access access>
struct Depth {
    static constexpr bool kVectors = access == Access::kVectors;
    static constexpr int kChunks = !kVectors ? 1 : RankTiles == 1 ? 4 - TokenTiles : RankTiles * TokenTiles == 2 ? 2 : 1;
    static constexpr int kBlocks = kVectors && RankTiles * TokenTiles == 1 ? 2 : 1;
    static constexpr int kBlocksPerMultiprocessor = RankTiles * TokenTiles <= 2 ? 2 : 1;
};

// The dynamic shared memory; float4-aligned so that pairs of sums are one access.
extern __shared__ __align__(16) float low_rank_sums[];

template <typename Number, int RankTiles, int TokenTiles, Access access>
__device__ __forceinline__ void low_rank(const LowRankArguments& p) {
    using Thread = LowRankThread<Number, RankTiles, TokenTiles, access>;
    using InFlight = Depth<RankTiles, TokenTiles, access>;
    constexpr int kChunks = InFlight::kChunks, kBlocks = InFlight::kBlocks;
    constexpr int kTokens = TokenTiles * kTileTokens, kSums = RankTiles * kTokens * 8;
    Thread thread(p);
    const int warp = threadIdx.x / 32, warps = blockDim.x / 32;

    const int chunk_begin = warp * p.chunk_share;
    const int chunk_end = min(chunk_begin + p.chunk_share, ceil_div(p.inputs, Thread::kBlock));
    const int part_begin = blockIdx.y * p.part_width;
    const int part_end = min(part_begin + p.part_width, ceil_div(p.outputs, Thread::kBlock));
    const int block_begin = part_begin + warp * p.block_share;
    const int block_end = min(block_begin + p.block_share, part_end);

    let_next_kernel_begin();
    wait_for_kernel_before();
    // The maps first: they need no expert, whose number is still being read.
    Vector xs[kChunks][TokenTiles][2], as[kChunks][RankTiles];
    Stage<Number, RankTiles, TokenTiles> stages[kBlocks];
#pragma unroll
    for (int d = 0; d < kChunks; ++d)
        if (chunk_begin + d < chunk_end) thread.load_x(xs[d], chunk_begin + d);
#pragma unroll
    for (int d = 0; d < kBlocks; ++d)
        if (block_begin + d < block_end) thread.load_maps(stages[d], block_begin + d);
    thread.find_expert();
#pragma unroll
    for (int d = 0; d < kBlocks; ++d)
        if (block_begin + d < block_end) thread.load_b(stages[d], block_begin + d);

    float narrow[TokenTiles][RankTiles][4] = {};
    for (int chunk = chunk_begin; chunk < chunk_end; chunk += kChunks) {
#pragma unroll
        for (int d = 0; d < kChunks; ++d)
            if (chunk + d < chunk_end) thread.load_a(as[d], chunk + d);
#pragma unroll
        for (int d = 0; d < kChunks; ++d) {
            if (chunk + d >= chunk_end) continue;
            thread.down(narrow, xs[d], as[d]);
            if (chunk + d + kChunks < chunk_end) thread.load_x(xs[d], chunk + d + kChunks);
        }
    }

    // Sums lie as [warp][rank tile][token][rank of the tile]: a warp's pairs fill whole rows of banks.
    const int pair = thread.row * 8 + thread.quad * 2;
#pragma unroll
    for (int m = 0; m < TokenTiles; ++m)
#pragma unroll
        for (int r = 0; r < RankTiles; ++r) {
            float* sums = low_rank_sums + warp * kSums + (r * kTokens + m * kTileTokens) * 8 + pair;
#pragma unroll
            for (int i = 0; i < 4; ++i) sums[(i / 2) * 64 + i % 2] = narrow[m][r][i];
        }
    __syncthreads();
    for (int i = threadIdx.x; i < kSums; i += blockDim.x) {
        float sum = low_rank_sums[i];
#pragma unroll
        for (int w = 1; w < kLargestWarps; ++w)
            if (w < warps) sum += low_rank_sums[w * kSums + i];
        low_rank_sums[i] = sum;
    }
    __syncthreads();

    unsigned operands[TokenTiles][RankTiles][2][Number::kWordsPerPair];
#pragma unroll
    for (int m = 0; m < TokenTiles; ++m)
#pragma unroll
        for (int r = 0; r < RankTiles; ++r)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const float* sums = low_rank_sums + (r * kTokens + m * kTileTokens + h * 8) * 8 + pair;
                const unsigned first = Number::bits(sums[0]), second = Number::bits(sums[1]);
                make_pair<Number>(operands[m][r][h], first, second);
            }

    for (int block = block_begin; block < block_end; block += kBlocks)
#pragma unroll
        for (int d = 0; d < kBlocks; ++d) {
            if (block + d >= block_end) continue;
            thread.up(stages[d], operands, block + d);
            if (block + d + kBlocks < block_end) {
                thread.load_maps(stages[d], block + d + kBlocks);
                thread.load_b(stages[d], block + d + kBlocks);
            }
        }
}

// A second block on a multiprocessor keeps the memory busy while the first waits at its barrier.
template <typename Number, int RankTiles, int TokenTiles, Access access>
__global__ void 
    __launch_bounds__(32 * kLargestWarps, Depth<RankTiles, TokenTiles, access>::kBlocksPerMultiprocessor)
    low_rank_kernel(const LowRankArguments arguments) {
    low_rank<Number, RankTiles, TokenTiles, access>(arguments);
}

}  // namespace mile
