// What one thread asks of the machine: 16-byte accesses, number formats and the tensor cores.
//
// No header is included, so nvcc and NVRTC compile this alike. tests/plugin/simt.h stands in for this file when the
// kernel's own source is run on a processor: whatever is not plain C++ belongs here.
#pragma once

namespace mile {

// 16 bytes: eight fp16 or four fp32 numbers.
struct alignas(16) Vector {
    unsigned word[4];
};

// Read once, by one thread of the grid: kept out of L1. Volatile, so that loads are issued in the order written.
__device__ __forceinline__ Vector load_once(const void* address) {
    Vector v;
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
                 : "l"(address));
    return v;
}

// Read by many blocks: weights, which nobody writes while the kernel runs.
__device__ __forceinline__ Vector load_shared_by_all(const void* address) {
    Vector v;
    asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
                 : "l"(address));
    return v;
}

__device__ __forceinline__ void store(void* address, const Vector& v) {
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(address), "r"(v.word[0]), "r"(v.word[1]),
                 "r"(v.word[2]), "r"(v.word[3])
                 : "memory");
}

// Programmatic dependent launch, where the device has it and the launch asked for it: the next kernel's blocks may take
// their places, and this one's memory accesses wait until the kernel before is complete. Otherwise neither does anything.
__device__ __forceinline__ void let_next_kernel_begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

__device__ __forceinline__ void wait_for_kernel_before() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// IEEE fp16: two numbers to a register.
struct Half {
    using Element = unsigned short;
    static constexpr int kPerVector = 8;
    static constexpr int kWordsPerPair = 1;

    static __device__ __forceinline__ float number(Element bits) {
        float value;
        asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
        return value;
    }

    static __device__ __forceinline__ Element bits(float value) {
        Element result;
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result) : "f"(value));
        return result;
    }

    // d += a b: 16 tokens x 16 inputs times 16 inputs x 8 ranks. Words as PTX lays out mma.m16n8k16.
    static __device__ __forceinline__ void multiply_inputs(float (&d)[4], unsigned a0, unsigned a1, unsigned a2,
                                                           unsigned a3, unsigned b0, unsigned b1) {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
            "{%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
    }

    // d += a b: 16 tokens x 8 ranks times 8 ranks x 8 outputs; a: two ranks of token g, two of token g + 8.
    static __device__ __forceinline__ void multiply_ranks(float (&d)[4], const unsigned (&low)[1],
                                                          const unsigned (&high)[1], const unsigned (&b)[1]) {
        asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(low[0]), "r"(high[0]), "r"(b[0]));
    }
};

// fp32 whose products keep fp32's accuracy on TF32 tensor cores: each number is split into a TF32 part and what that
// part leaves, and only the product of the two small parts is dropped (Ootomo and Yokota, IJHPCA 2022).
struct Single {
    using Element = unsigned;
    static constexpr int kPerVector = 4;
    static constexpr int kWordsPerPair = 2;

    static __device__ __forceinline__ float number(Element bits) { return __uint_as_float(bits); }
    static __device__ __forceinline__ Element bits(float value) { return __float_as_uint(value); }

    static __device__ __forceinline__ void multiply_inputs(float (&d)[4], unsigned a0, unsigned a1, unsigned a2,
                                                           unsigned a3, unsigned b0, unsigned b1) {
        const unsigned a[4] = {a0, a1, a2, a3}, b[2] = {b0, b1};
        unsigned a_big[4], a_small[4], b_big[2], b_small[2];
#pragma unroll
        for (int i = 0; i < 4; ++i) split(a[i], a_big[i], a_small[i]);
#pragma unroll
        for (int i = 0; i < 2; ++i) split(b[i], b_big[i], b_small[i]);
        tf32(d, a_small, b_big);
        tf32(d, a_big, b_small);
        tf32(d, a_big, b_big);
    }

    static __device__ __forceinline__ void multiply_ranks(float (&d)[4], const unsigned (&low)[2],
                                                          const unsigned (&high)[2], const unsigned (&b)[2]) {
        multiply_inputs(d, low[0], high[0], low[1], high[1], b[0], b[1]);
    }

   private:
    static __device__ __forceinline__ void split(unsigned value, unsigned& big, unsigned& small) {
        asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(big) : "f"(__uint_as_float(value)));
        const float rest = __uint_as_float(value) - __uint_as_float(big);
        asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(small) : "f"(rest));
    }

    static __device__ __forceinline__ void tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
        asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
            "{%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }
};

}  // namespace mile
