// Runs the entry that plugin_aot.py writes, entry.cu, as TensorRT would launch it, and compares it with a plain loop. The
// sizes come from the command line of the compiler.
#define MILE_PRIMITIVES "simt.h"
#include "entry.cu"

namespace mile {
float low_rank_sums[SHARED_BYTES / sizeof(float)];
}

int main() {
    constexpr int kSamples = 2, kTokens = 37, kExperts = 3;
    std::mt19937 random(5);
    std::normal_distribution<float> normal(0, 0.5);
    auto filled = [&](size_t count) {
        std::vector<float> numbers(count);
        for (float& number : numbers) number = normal(random);
        return numbers;
    };
    auto product = filled(kSamples * kTokens * OUTPUTS), bias = filled(OUTPUTS), bank = filled(kExperts * ROW_LENGTH);
    auto x = filled(kSamples * kTokens * INPUTS), y = filled(product.size());
    const long long expert[kSamples] = {2, 1};
    simt::body = [&] {
        mile_low_rank(product.data(), bias.data(), x.data(), bank.data(), expert, kExperts, kTokens, y.data());
    };
    blockDim = dim3(32 * WARPS);
    for (unsigned z = 0; z < kSamples; ++z)
        for (unsigned tile = 0; tile < (kTokens + 15) / 16; ++tile) {
            blockIdx = {tile, 0, z};
            simt::run_block(32 * WARPS, random);
        }
    double worst = 0;
    for (int s = 0; s < kSamples; ++s)
        for (int n = 0; n < kTokens; ++n)
            for (int o = 0; o < OUTPUTS; ++o) {
                const int at = s * kTokens + n;
                const float* row = bank.data() + expert[s] * ROW_LENGTH;
                double sum = double(product[at * OUTPUTS + o]) + bias[o];
                for (int r = 0; r < RANK; ++r) {
                    double down = 0;
                    for (int k = 0; k < INPUTS; ++k) down += double(x[at * INPUTS + k]) * row[A_START + r * INPUTS + k];
                    sum += down * row[B_START + o * RANK + r];
                }
                worst = std::max(worst, std::fabs(sum - y[at * OUTPUTS + o]));
            }
    std::printf("%.1e\n", worst);
    return !(worst < 1e-4);
}
