// Compares the kernel, launched by its own launcher but run by simt.h, with a plain loop in double precision.
// Prints one line per case: its name, the largest relative error, and whether it was within bounds. With the argument
// "plans" it prints the plan for each line of eight numbers it reads; with "limits" it tries calls that must be refused.
#include "launch.h"

#include <sys/mman.h>
#include <unistd.h>

// Numbers that lie against a page nobody may touch, on one side or the other.
template <typename Number>
struct Guarded {
    using Element = typename Number::Element;
    char* pages;
    size_t length;
    Element* data;

    Guarded(size_t count, bool at_end, size_t skip = 0) {
        const size_t page = sysconf(_SC_PAGESIZE), bytes = (count + skip) * sizeof(Element);
        length = (bytes + page - 1) / page * page + 2 * page;
        pages = static_cast<char*>(mmap(nullptr, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        mprotect(pages + page, length - 2 * page, PROT_READ | PROT_WRITE);
        // At the end, sizes that are no multiple of a vector leave a gap where vectors are wanted.
        const size_t end = length - page - bytes;
        data = reinterpret_cast<Element*>(pages + (at_end ? end / 16 * 16 : page)) + skip;
        if (at_end && count * sizeof(Element) % 16) data = reinterpret_cast<Element*>(pages + end) + skip;
    }
    ~Guarded() { munmap(pages, length); }
};

struct Case {
    const char* name;
    int samples, tokens, inputs, outputs, rank, experts, a_start, gap, tail, processors;
};

template <typename Number>
bool check(const Case& c, mile::NumberType type, bool at_end, double bound) {
    std::mt19937 random(c.tokens * 31 + c.inputs * 7 + c.outputs + c.rank);
    std::normal_distribution<float> normal;
    const int b_start = c.a_start + c.rank * c.inputs + c.gap;
    const long long row = b_start + c.rank * c.outputs + c.tail;
    auto filled = [&](size_t count, double scale) {
        auto buffer = std::make_unique<Guarded<Number>>(count, at_end);
        for (size_t i = 0; i < count; ++i) buffer->data[i] = Number::bits(normal(random) * scale);
        return buffer;
    };
    const size_t tokens = static_cast<size_t>(c.samples) * c.tokens;
    auto x = filled(tokens * c.inputs, 1), product = filled(tokens * c.outputs, 1), bias = filled(c.outputs, 1);
    auto bank = filled(c.experts * row, 1 / std::sqrt(std::sqrt(double(c.inputs) * c.rank)));
    Guarded<Number> y(tokens * c.outputs, at_end);
    for (size_t i = 0; i < tokens * c.outputs; ++i) y.data[i] = Number::bits(NAN);
    std::vector<long long> wide(c.samples);
    std::vector<int> narrow(c.samples);
    for (int i = 0; i < c.samples; ++i) wide[i] = narrow[i] = random() % c.experts;
    const bool as_int32 = at_end;

    auto run = [&](int on_processors, typename Number::Element* out) {
        processors = on_processors;
        return mile_low_rank(static_cast<int>(type), c.samples, c.tokens, c.inputs, c.outputs, c.rank, c.experts, row,
                             c.a_start, b_start, as_int32 ? 4 : 8, product->data, bias->data, x->data, bank->data,
                             as_int32 ? static_cast<void*>(narrow.data()) : static_cast<void*>(wide.data()), out,
                             at_end, nullptr);
    };
    const int status = run(c.processors, y.data);
    if (status != cudaSuccess) return std::printf("%s status %d\n", c.name, status), false;

    double worst = 0, largest = 0;
    auto value = [](auto bits) { return double(Number::number(bits)); };
    for (int s = 0; s < c.samples; ++s) {
        const auto *a = bank->data + wide[s] * row + c.a_start, *b = bank->data + wide[s] * row + b_start;
        for (int n = 0; n < c.tokens; ++n) {
            const size_t token = static_cast<size_t>(s) * c.tokens + n;
            std::vector<double> down(c.rank);
            for (int r = 0; r < c.rank; ++r)
                for (int k = 0; k < c.inputs; ++k)
                    down[r] += value(x->data[token * c.inputs + k]) * value(a[r * c.inputs + k]);
            for (int o = 0; o < c.outputs; ++o) {
                const size_t at = token * c.outputs + o;
                double sum = value(product->data[at]) + value(bias->data[o]);
                for (int r = 0; r < c.rank; ++r) sum += down[r] * value(b[o * c.rank + r]);
                const double error = std::fabs(value(y.data[at]) - sum);
                if (!(error <= worst)) worst = error;  // also for NaN
                largest = std::max(largest, std::fabs(sum));
            }
        }
    }
    // A device of another size cuts the layer into other blocks; and y may take product's place.
    const bool again = run(c.processors == 1 ? 132 : 1, product->data) == cudaSuccess;
    const bool same = again && !std::memcmp(product->data, y.data, tokens * c.outputs * sizeof(y.data[0]));
    const double relative = worst / largest;
    const bool good = relative <= bound && same;
    std::printf("%s %s %s error %.2e bits %s %s\n", c.name, type == mile::NumberType::kHalf ? "fp16" : "fp32",
                at_end ? "guard-after" : "guard-before", relative, same ? "same" : "differ", good ? "ok" : "WRONG");
    return good;
}

int plans() {
    int samples, tokens, inputs, outputs, rank, vector, access, multiprocessors;
    while (std::scanf("%d%d%d%d%d%d%d%d", &samples, &tokens, &inputs, &outputs, &rank, &vector, &access,
                      &multiprocessors) == 8) {
        const mile::Plan p = mile::plan({samples, tokens, inputs, outputs, rank}, vector,
                                        static_cast<mile::Access>(access), multiprocessors);
        std::printf("%d %d %d %d %d %d %d %d %d\n", p.rank_tiles, p.token_tiles, p.warps, p.parts, p.part_width, p.tiles,
                    p.chunk_share, p.block_share, p.shared_bytes);
    }
    return 0;
}

// No pointer is valid here: a call that got through would end the program.
int limits() {
    const mile::LowRankCall fits = {mile::NumberType::kHalf, {1, 1, 64, 64, 8}, 1, 1024, 0, 512, 8};
    auto refused = [&](auto change) {
        mile::LowRankCall call = fits;
        change(call);
        return mile::low_rank(call, nullptr) == cudaErrorInvalidValue;
    };
    auto does_nothing = [&](auto change) {
        mile::LowRankCall call = fits;
        change(call);
        return mile::low_rank(call, nullptr) == cudaSuccess;
    };
    const bool results[] = {
        refused([](auto& c) { c.shape.rank = 0; }),         refused([](auto& c) { c.shape.rank = 65; }),
        refused([](auto& c) { c.shape.inputs = 0; }),       refused([](auto& c) { c.shape.outputs = -1; }),
        refused([](auto& c) { c.shape.samples = 65536; }),  refused([](auto& c) { c.row_length = 1023; }),
        refused([](auto& c) { c.a_start = -1; }),           refused([](auto& c) { c.b_start = 513; }),
        refused([](auto& c) { c.expert_bytes = 2; }),       refused([](auto& c) { c.experts = 0; }),
        refused([](auto& c) { c.shape.tokens = 1 << 25; }),
        does_nothing([](auto& c) { c.shape.tokens = 0; }),  does_nothing([](auto& c) { c.shape.samples = 0; }),
    };
    int wrong = 0;
    for (size_t i = 0; i < std::size(results); ++i)
        if (!results[i]) wrong = 1, std::printf("case %zu was let through\n", i);
    return wrong;
}

int main(int count, char** arguments) {
    if (count > 1 && !std::strcmp(arguments[1], "plans")) return plans();
    if (count > 1 && !std::strcmp(arguments[1], "limits")) return limits();
    const Case cases[] = {
        // name, samples, tokens, inputs, outputs, rank, experts, a_start, gap, tail, processors
        {"b0-stage-1", 2, 35, 64, 64, 8, 3, 128, 0, 16, 132},
        {"b0-stage-2", 1, 33, 160, 160, 8, 4, 0, 0, 0, 16},
        {"b0-mlp", 1, 20, 64, 256, 8, 2, 8, 8, 24, 132},
        {"b5-stage-3", 3, 17, 320, 320, 8, 5, 64, 0, 32, 132},
        {"vit", 1, 40, 768, 768, 8, 3, 1536, 0, 8, 16},
        {"vit-two-token-tiles", 2, 70, 768, 96, 8, 3, 0, 0, 8, 1},
        {"vit-wide-in-parts", 1, 19, 96, 3072, 8, 2, 0, 0, 0, 132},
        {"vectors-no-blocks", 2, 33, 72, 40, 8, 3, 0, 0, 8, 16},
        {"mobilevit", 1, 40, 80, 80, 8, 3, 0, 0, 0, 1},
        {"narrow-after-wide", 1, 19, 1024, 64, 8, 2, 0, 0, 0, 132},
        {"rank-2", 2, 18, 64, 96, 2, 3, 0, 0, 0, 16},
        {"rank-10-two-token-tiles", 1, 90, 96, 64, 10, 3, 16, 8, 0, 1},
        {"rank-16", 1, 31, 160, 64, 16, 2, 0, 0, 0, 16},
        {"rank-24", 2, 50, 64, 160, 24, 2, 0, 0, 0, 1},
        {"rank-32", 1, 16, 256, 64, 32, 2, 0, 0, 0, 132},
        {"rank-64", 1, 17, 128, 192, 64, 2, 0, 0, 0, 1},
        {"rank-50", 1, 9, 64, 64, 50, 2, 0, 0, 0, 1},
        {"odd-rows", 2, 21, 64, 64, 8, 5, 3, 0, 4883, 16},
        {"odd-b", 1, 21, 64, 64, 8, 5, 0, 1, 7, 16},
        {"odd-rank", 1, 21, 64, 64, 5, 3, 0, 0, 0, 16},
        {"odd-rank-40", 1, 21, 32, 64, 41, 3, 0, 0, 1, 16},
        {"odd-everything", 3, 23, 37, 51, 7, 4, 5, 3, 1, 16},
        {"odd-outputs", 1, 16, 64, 1, 8, 2, 0, 0, 0, 16},
        {"odd-inputs", 1, 16, 1, 64, 1, 2, 0, 0, 0, 16},
        {"odd-rank-64", 1, 5, 33, 70, 64, 2, 1, 0, 0, 16},
        {"one-token", 4, 1, 64, 64, 8, 9, 0, 0, 0, 132},
    };
    bool good = true;
    for (const Case& c : cases)
        for (bool at_end : {false, true}) {
            good &= check<mile::Half>(c, mile::NumberType::kHalf, at_end, 1e-3);
            good &= check<mile::Single>(c, mile::NumberType::kSingle, at_end, 2e-6);
        }
    return good ? 0 : 1;
}
