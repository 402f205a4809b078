// Runs a CUDA kernel's own source on a processor, one block after another: every thread is a fiber that is put aside at
// barriers and at tensor-core products and taken up again in random order. It stands in for low_rank_primitives.cuh.
//
// The layouts of the products are those of the PTX ISA ("Matrix Fragments for mma.m16n8k16", "... .m16n8k8"), written
// down here a second time. What it cannot show: speed, memory ordering between blocks, and the hardware's own rounding.
#pragma once

#include <cuda_runtime_api.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <vector>

// nvcc knows these two by itself.
#define __launch_bounds__(...)
using std::min;

namespace simt {

enum class Wait { kNothing, kBarrier, kInputs16, kRanks16, kTf32, kOver };

struct Operands {
    unsigned a[4], b[2];
    float* d;
};

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    Wait wait;
    Operands operands;
};

inline std::vector<Fiber> fibers;
inline ucontext_t scheduler;
inline int current;
inline std::function<void()> body;

inline void fail(const char* what) {
    std::fprintf(stderr, "simt: %s (thread %d)\n", what, current);
    std::exit(3);
}

inline void wait_for(Wait wait) {
    fibers[current].wait = wait;
    swapcontext(&fibers[current].context, &scheduler);
}

inline void start() {
    body();
    fibers[current].wait = Wait::kOver;
}

inline float half_to_float(unsigned bits) {
    _Float16 value;
    const std::uint16_t narrow = bits & 0xffff;
    std::memcpy(&value, &narrow, 2);
    return value;
}

inline float bits_to_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline unsigned float_to_bits(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

// One warp's product: d (16, 8) += a (16, depth) b (depth, 8).
inline void multiply(Fiber* lanes, Wait kind) {
    const int depth = kind == Wait::kInputs16 ? 16 : 8;
    float a[16][16], b[16][8];
    for (int lane = 0; lane < 32; ++lane) {
        const int group = lane >> 2, in_group = lane & 3;
        const Operands& own = lanes[lane].operands;
        if (kind == Wait::kTf32) {
            for (int i = 0; i < 4; ++i) a[group + 8 * (i & 1)][in_group + 4 * (i >> 1)] = bits_to_float(own.a[i]);
            for (int i = 0; i < 2; ++i) b[in_group + 4 * i][group] = bits_to_float(own.b[i]);
            continue;
        }
        for (int i = 0; i < depth / 2; ++i) {
            const bool upper = !(i < 2 || (4 <= i && i < 6));
            a[group + 8 * upper][in_group * 2 + (i & 1) + 8 * (i >= 4)] =
                half_to_float(own.a[i / 2] >> (16 * (i & 1)));
        }
        for (int i = 0; i < depth / 4; ++i)
            b[in_group * 2 + (i & 1) + 8 * (i >= 2)][group] = half_to_float(own.b[i / 2] >> (16 * (i & 1)));
    }
    for (int lane = 0; lane < 32; ++lane)
        for (int i = 0; i < 4; ++i) {
            const int row = (lane >> 2) + 8 * (i >= 2), column = (lane & 3) * 2 + (i & 1);
            float sum = 0;
            for (int k = 0; k < depth; ++k) sum += a[row][k] * b[k][column];
            lanes[lane].operands.d[i] += sum;
        }
}

inline void run_block(int threads, std::mt19937& order) {
    if (static_cast<int>(fibers.size()) < threads) fibers.resize(threads);
    std::vector<int> turn(threads);
    for (int i = 0; i < threads; ++i) {
        Fiber& fiber = fibers[i];
        if (!fiber.stack) fiber.stack = std::make_unique<char[]>(1 << 16);
        getcontext(&fiber.context);
        fiber.context.uc_stack = {fiber.stack.get(), 0, 1 << 16};
        fiber.context.uc_link = &scheduler;
        fiber.wait = Wait::kNothing;
        makecontext(&fiber.context, start, 0);
        turn[i] = i;
    }
    while (true) {
        std::shuffle(turn.begin(), turn.end(), order);
        for (int i : turn)
            if (fibers[i].wait == Wait::kNothing) {
                current = i;
                swapcontext(&scheduler, &fibers[i].context);
            }
        bool moved = false;
        int at_barrier = 0, over = 0;
        for (int warp = 0; warp < threads / 32; ++warp) {
            Fiber* lanes = &fibers[warp * 32];
            const Wait kind = lanes[0].wait;
            for (int lane = 0; lane < 32; ++lane) {
                if (lanes[lane].wait != kind) fail("the lanes of a warp went different ways");
                at_barrier += lanes[lane].wait == Wait::kBarrier;
                over += lanes[lane].wait == Wait::kOver;
            }
            if (kind == Wait::kBarrier || kind == Wait::kOver) continue;
            multiply(lanes, kind);
            for (int lane = 0; lane < 32; ++lane) lanes[lane].wait = Wait::kNothing;
            moved = true;
        }
        if (over == threads) return;
        if (moved) continue;
        if (at_barrier != threads) fail("some threads ended while others wait at a barrier");
        for (int i = 0; i < threads; ++i) fibers[i].wait = Wait::kNothing;
    }
}

// threadIdx and its kin, read wherever a fiber runs.
struct ThreadIndex {
    struct X {
        operator unsigned() const { return current; }
    } x;
};

}  // namespace simt

inline const simt::ThreadIndex threadIdx;
inline uint3 blockIdx;
inline dim3 blockDim;

inline void __syncthreads() { simt::wait_for(simt::Wait::kBarrier); }

namespace mile {

struct alignas(16) Vector {
    unsigned word[4];
};

inline Vector load_once(const void* address) {
    if (reinterpret_cast<std::uintptr_t>(address) % 16) simt::fail("a vector is read at an unaligned address");
    return *static_cast<const Vector*>(address);
}

inline Vector load_shared_by_all(const void* address) { return load_once(address); }

inline void store(void* address, const Vector& v) {
    if (reinterpret_cast<std::uintptr_t>(address) % 16) simt::fail("a vector is written at an unaligned address");
    *static_cast<Vector*>(address) = v;
}

inline void let_next_kernel_begin() {}
inline void wait_for_kernel_before() {}

inline void product(simt::Wait kind, float (&d)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0,
                    unsigned b1) {
    simt::fibers[simt::current].operands = {{a0, a1, a2, a3}, {b0, b1}, d};
    simt::wait_for(kind);
}

struct Half {
    using Element = unsigned short;
    static constexpr int kPerVector = 8;
    static constexpr int kWordsPerPair = 1;

    static float number(Element bits) { return simt::half_to_float(bits); }

    static Element bits(float value) {
        const _Float16 narrow = static_cast<_Float16>(value);
        Element result;
        std::memcpy(&result, &narrow, 2);
        return result;
    }

    static void multiply_inputs(float (&d)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0,
                                unsigned b1) {
        product(simt::Wait::kInputs16, d, a0, a1, a2, a3, b0, b1);
    }

    static void multiply_ranks(float (&d)[4], const unsigned (&low)[1], const unsigned (&high)[1],
                               const unsigned (&b)[1]) {
        product(simt::Wait::kRanks16, d, low[0], high[0], 0, 0, b[0], 0);
    }
};

struct Single {
    using Element = unsigned;
    static constexpr int kPerVector = 4;
    static constexpr int kWordsPerPair = 2;

    static float number(Element bits) { return simt::bits_to_float(bits); }
    static Element bits(float value) { return simt::float_to_bits(value); }

    static void multiply_inputs(float (&d)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0,
                                unsigned b1) {
        const unsigned a[4] = {a0, a1, a2, a3}, b[2] = {b0, b1};
        unsigned a_big[4], a_small[4], b_big[2], b_small[2];
        for (int i = 0; i < 4; ++i) split(a[i], a_big[i], a_small[i]);
        for (int i = 0; i < 2; ++i) split(b[i], b_big[i], b_small[i]);
        tf32(d, a_small, b_big);
        tf32(d, a_big, b_small);
        tf32(d, a_big, b_big);
    }

    static void multiply_ranks(float (&d)[4], const unsigned (&low)[2], const unsigned (&high)[2],
                               const unsigned (&b)[2]) {
        multiply_inputs(d, low[0], high[0], low[1], high[1], b[0], b[1]);
    }

   private:
    // To nearest, ties away from zero: ten bits of mantissa are left.
    static unsigned tf32_of(float value) { return (simt::float_to_bits(value) + 0x1000u) & ~0x1fffu; }

    static void split(unsigned value, unsigned& big, unsigned& small) {
        big = tf32_of(simt::bits_to_float(value));
        small = tf32_of(simt::bits_to_float(value) - simt::bits_to_float(big));
    }

    static void tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
        product(simt::Wait::kTf32, d, a[0], a[1], a[2], a[3], b[0], b[1]);
    }
};

}  // namespace mile
