// What one thread of the low-rank kernel loads, multiplies and stores; low_rank_kernel.cuh says in which order and why.
#pragma once

#ifndef MILE_PRIMITIVES
#define MILE_PRIMITIVES "low_rank_primitives.cuh"
#endif
#include MILE_PRIMITIVES
#include "low_rank_plan.h"

namespace mile {

struct LowRankArguments {
    const void* product;  // (samples, tokens, outputs)
    const void* bias;     // (outputs)
    const void* x;        // (samples, tokens, inputs)
    const void* bank;     // (experts, row_length)
    const void* expert;   // (samples) int64 or int32
    void* y;              // (samples, tokens, outputs), may be product
    long long row_length;
    long long a_start;  // A (rank, inputs) begins here in a row of the bank
    long long b_start;  // B (outputs, rank)
    int experts;
    int tokens;
    int inputs;
    int outputs;
    int rank;
    int chunk_share;   // chunks of inputs per warp
    int part_width;    // blocks of outputs per grid.y
    int block_share;   // of these per warp
    int expert_bytes;  // 8 or 4
};

// A vector of the first `count` numbers at `address`, one by one, then zeros: for rows that are no multiple of 16 bytes.
template <typename Number>
__device__ __forceinline__ Vector load_numbers(const typename Number::Element* address, int count) {
    Vector v = {};
#pragma unroll
    for (int i = 0; i < Number::kPerVector; ++i) {
        const unsigned bits = i < count ? address[i] : 0;
        if constexpr (Number::kPerVector == 8)
            v.word[i / 2] |= bits << (16 * (i % 2));
        else
            v.word[i] = bits;
    }
    return v;
}

template <typename Number>
__device__ __forceinline__ typename Number::Element element(const Vector& v, int i) {
    if constexpr (Number::kPerVector == 8) return v.word[i / 2] >> (16 * (i % 2));
    return v.word[i];
}

template <typename Number>
__device__ __forceinline__ void put(Vector& v, int i, typename Number::Element bits) {
    if constexpr (Number::kPerVector == 8)
        v.word[i / 2] |= static_cast<unsigned>(bits) << (16 * (i % 2));
    else
        v.word[i] = bits;
}

template <typename Number>
__device__ __forceinline__ void make_pair(unsigned (&pair)[Number::kWordsPerPair], unsigned first, unsigned second) {
    if constexpr (Number::kWordsPerPair == 1) {
        pair[0] = first | second << 16;
    } else {
        pair[0] = first;
        pair[1] = second;
    }
}

// Two ranks of one output's row of B; `Together` where every pair is aligned and none straddles the rank.
template <typename Number, bool Together>
__device__ __forceinline__ void load_pair(unsigned (&pair)[Number::kWordsPerPair],
                                          const typename Number::Element* address, int count) {
    if constexpr (Together) {
        const unsigned* words = reinterpret_cast<const unsigned*>(address);
#pragma unroll
        for (int i = 0; i < Number::kWordsPerPair; ++i) pair[i] = count > 0 ? words[i] : 0;
    } else {
        const unsigned first = count > 0 ? address[0] : 0, second = count > 1 ? address[1] : 0;
        make_pair<Number>(pair, first, second);
    }
}

// What one warp needs beside the narrow activations to finish a block of outputs.
template <typename Number, int RankTiles, int TokenTiles>
struct Stage {
    Vector product[TokenTiles][2];
    Vector bias;
    unsigned b[Number::kPerVector / 2][RankTiles][Number::kWordsPerPair];
};

// One thread's place in the layer, and the pointers to its sample.
template <typename Number, int RankTiles, int TokenTiles, Access access>
struct LowRankThread {
    using Element = typename Number::Element;
    static constexpr int kVector = Number::kPerVector;
    static constexpr int kBlock = 4 * kVector;  // inputs of a chunk, and outputs of a block
    static constexpr bool kMapVectors = access != Access::kNumbers, kBankVectors = access == Access::kVectors;

    const LowRankArguments& p;
    const Element *x, *product, *bias, *a, *b;
    Element* y;
    int row, quad, first_token;
    // Where the thread's tokens begin in x, and in product and y; the last token again for those past the end, so that
    // loads need no condition. Stores have one.
    int x_at[TokenTiles][2], y_at[TokenTiles][2];

    __device__ __forceinline__ explicit LowRankThread(const LowRankArguments& arguments) : p(arguments) {
        const int lane = threadIdx.x % 32;
        row = lane / 4;
        quad = lane % 4;
        first_token = blockIdx.x * (TokenTiles * kTileTokens) + row;
        const long long sample_tokens = static_cast<long long>(blockIdx.z) * p.tokens;
        x = static_cast<const Element*>(p.x) + sample_tokens * p.inputs;
        product = static_cast<const Element*>(p.product) + sample_tokens * p.outputs;
        bias = static_cast<const Element*>(p.bias);
        y = static_cast<Element*>(p.y) + sample_tokens * p.outputs;
#pragma unroll
        for (int m = 0; m < TokenTiles; ++m)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const int token = min(first_token + m * kTileTokens + h * 8, p.tokens - 1);
                x_at[m][h] = token * p.inputs + quad * kVector;
                y_at[m][h] = token * p.outputs + quad * kVector;
            }
    }

    // The row that the gate chose. An index outside the bank, which no gate writes, reads its nearest row: a stray
    // index must not read memory that is not the bank's.
    __device__ __forceinline__ void find_expert() {
        long long index = p.expert_bytes == 8 ? static_cast<const long long*>(p.expert)[blockIdx.z]
                                              : static_cast<const int*>(p.expert)[blockIdx.z];
        index = index < 0 ? 0 : index >= p.experts ? p.experts - 1 : index;
        const Element* own = static_cast<const Element*>(p.bank) + index * p.row_length;
        a = own + p.a_start;
        b = own + p.b_start;
    }

    // `left`: how many numbers of the row there are from `address` on.
    __device__ __forceinline__ static Vector load_map(const Element* address, int left) {
        if (left <= 0) return Vector{};
        if constexpr (kMapVectors) return load_once(address);
        return load_numbers<Number>(address, left);
    }

    __device__ __forceinline__ void load_x(Vector (&v)[TokenTiles][2], int chunk) const {
        const int column = chunk * kBlock;
#pragma unroll
        for (int m = 0; m < TokenTiles; ++m)
#pragma unroll
            for (int h = 0; h < 2; ++h) v[m][h] = load_map(x + x_at[m][h] + column, p.inputs - column - quad * kVector);
    }

    __device__ __forceinline__ void load_a(Vector (&v)[RankTiles], int chunk) const {
        const int column = chunk * kBlock + quad * kVector;
#pragma unroll
        for (int r = 0; r < RankTiles; ++r) {
            const int rank = r * 8 + row;
            const Element* address = a + rank * p.inputs + column;
            const int count = rank < p.rank ? p.inputs - column : 0;
            if constexpr (kBankVectors)
                v[r] = count > 0 ? load_shared_by_all(address) : Vector{};
            else
                v[r] = load_numbers<Number>(address, count);
        }
    }

    __device__ __forceinline__ void load_maps(Stage<Number, RankTiles, TokenTiles>& stage, int block) const {
        const int column = block * kBlock, left = p.outputs - column - quad * kVector;
#pragma unroll
        for (int m = 0; m < TokenTiles; ++m)
#pragma unroll
            for (int h = 0; h < 2; ++h) stage.product[m][h] = load_map(product + y_at[m][h] + column, left);
        stage.bias = Vector{};
        if (left <= 0) return;
        if constexpr (kMapVectors)
            stage.bias = load_shared_by_all(bias + column + quad * kVector);
        else
            stage.bias = load_numbers<Number>(bias + column + quad * kVector, left);
    }

    // Tile j of a block multiplies by the rows of B whose products this thread's quad will hold: at place `row` stands
    // output 2j + row % 2 of vector row / 2.
    __device__ __forceinline__ void load_b(Stage<Number, RankTiles, TokenTiles>& stage, int block) const {
        const int vector = block * kBlock + (row / 2) * kVector, first = vector + row % 2;
#pragma unroll
        for (int j = 0; j < kVector / 2; ++j) {
            // A vector lies within the outputs as a whole, or number by number.
            const bool inside = (kMapVectors ? vector : first + 2 * j) < p.outputs;
#pragma unroll
            for (int r = 0; r < RankTiles; ++r) {
                const int rank = r * 8 + 2 * quad;
                const Element* address = b + (first + 2 * j) * p.rank + rank;
                load_pair<Number, kBankVectors>(stage.b[j][r], address, inside ? p.rank - rank : 0);
            }
        }
    }

    __device__ __forceinline__ void down(float (&narrow)[TokenTiles][RankTiles][4], const Vector (&xs)[TokenTiles][2],
                                         const Vector (&as)[RankTiles]) const {
#pragma unroll
        for (int half = 0; half < 4; half += 2)
#pragma unroll
            for (int m = 0; m < TokenTiles; ++m)
#pragma unroll
                for (int r = 0; r < RankTiles; ++r)
                    Number::multiply_inputs(narrow[m][r], xs[m][0].word[half], xs[m][1].word[half],
                                            xs[m][0].word[half + 1], xs[m][1].word[half + 1], as[r].word[half],
                                            as[r].word[half + 1]);
    }

    __device__ __forceinline__ void store_vector(int m, int h, int block, const Vector& v) const {
        const int column = block * kBlock, left = p.outputs - column - quad * kVector;
        if (first_token + m * kTileTokens + h * 8 >= p.tokens || left <= 0) return;
        Element* address = y + y_at[m][h] + column;
        if constexpr (kMapVectors) {
            store(address, v);
        } else {
#pragma unroll
            for (int i = 0; i < kVector; ++i)
                if (i < left) address[i] = element<Number>(v, i);
        }
    }

    __device__ __forceinline__ void up(
        const Stage<Number, RankTiles, TokenTiles>& stage,
        const unsigned (&narrow)[TokenTiles][RankTiles][2][Number::kWordsPerPair], int block) const {
#pragma unroll
        for (int m = 0; m < TokenTiles; ++m) {
            Vector out[2] = {};
#pragma unroll
            for (int j = 0; j < kVector / 2; ++j) {
                float wide[4];
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    wide[i] = Number::number(element<Number>(stage.product[m][i / 2], 2 * j + i % 2)) +
                              Number::number(element<Number>(stage.bias, 2 * j + i % 2));
#pragma unroll
                for (int r = 0; r < RankTiles; ++r)
                    Number::multiply_ranks(wide, narrow[m][r][0], narrow[m][r][1], stage.b[j][r]);
#pragma unroll
                for (int i = 0; i < 4; ++i) put<Number>(out[i / 2], 2 * j + i % 2, Number::bits(wide[i]));
            }
#pragma unroll
            for (int h = 0; h < 2; ++h) store_vector(m, h, block, out[h]);
        }
    }
};

}  // namespace mile
