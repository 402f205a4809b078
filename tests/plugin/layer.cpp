// The TensorRT layer as TensorRT uses it: found among the creators, made from an ONNX node's fields, asked for types
// and shapes, written to an engine, made again from that, and run. Only the kernel's launch is carried out by simt.h.
#include "launch.h"
#include "low_rank_plugin.cpp"

using namespace nvinfer1;

char const* cudaGetErrorString(cudaError_t) { return "a CUDA error"; }

static int failures = 0;

#define CHECK(what)                                                    \
    if (!(what)) {                                                     \
        std::fprintf(stderr, "line %d: not so: %s\n", __LINE__, #what); \
        ++failures;                                                    \
    }

static PluginTensorDesc tensor(DataType type, std::vector<int> sizes, TensorFormat format = TensorFormat::kLINEAR) {
    PluginTensorDesc desc{};
    desc.type = type;
    desc.format = format;
    desc.dims.nbDims = static_cast<int32_t>(sizes.size());
    std::copy(sizes.begin(), sizes.end(), desc.dims.d);
    return desc;
}

static std::vector<PluginTensorDesc> layer(DataType map, DataType index, int bias = 64) {
    return {tensor(map, {2, 20, 64}), tensor(map, {bias}),  tensor(map, {2, 20, 32}),
            tensor(map, {3, 1000}),   tensor(index, {2}), tensor(map, {2, 20, 64})};
}

static bool supported(IPluginV3OneBuild& build, std::vector<PluginTensorDesc> const& all) {
    std::vector<DynamicPluginTensorDesc> dynamic(all.size());
    for (size_t i = 0; i < all.size(); ++i) dynamic[i].desc = all[i];
    bool good = true;
    for (size_t i = 0; i < all.size(); ++i) good &= build.supportsFormatCombination(i, dynamic.data(), 5, 1);
    return good;
}

static int configured(IPluginV3OneBuild& build, std::vector<PluginTensorDesc> const& all) {
    std::vector<DynamicPluginTensorDesc> dynamic(all.size());
    for (size_t i = 0; i < all.size(); ++i) dynamic[i].desc = all[i];
    return build.configurePlugin(dynamic.data(), 5, &dynamic[5], 1);
}

static void run(IPluginV3OneRuntime& runtime, DataType index) {
    std::mt19937 random(3);
    std::normal_distribution<float> normal(0, 0.5);
    auto filled = [&](size_t count) {
        std::vector<float> numbers(count);
        for (float& number : numbers) number = normal(random);
        return numbers;
    };
    auto product = filled(2 * 20 * 64), bias = filled(64), x = filled(2 * 20 * 32), bank = filled(3 * 1000);
    std::vector<float> y(product.size());
    std::vector<int> narrow = {2, 1};
    std::vector<std::int64_t> wide = {2, 1};
    void const* inputs[] = {product.data(), bias.data(), x.data(), bank.data(),
                            index == DataType::kINT64 ? static_cast<void*>(wide.data()) : narrow.data()};
    void* outputs[] = {y.data()};
    auto const all = layer(DataType::kFLOAT, index);
    processors = 16;
    CHECK(runtime.onShapeChange(all.data(), 5, &all[5], 1) == 0);
    CHECK(runtime.enqueue(all.data(), &all[5], inputs, outputs, nullptr, nullptr) == 0);
    double worst = 0;
    for (int s = 0; s < 2; ++s)
        for (int n = 0; n < 20; ++n)
            for (int o = 0; o < 64; ++o) {
                double sum = product[(s * 20 + n) * 64 + o] + bias[o];
                for (int r = 0; r < 8; ++r) {
                    double down = 0;
                    for (int k = 0; k < 32; ++k)
                        down += x[(s * 20 + n) * 32 + k] * double(bank[narrow[s] * 1000 + 8 + r * 32 + k]);
                    sum += down * bank[narrow[s] * 1000 + 272 + o * 8 + r];
                }
                worst = std::max(worst, std::fabs(sum - y[(s * 20 + n) * 64 + o]));
            }
    CHECK(worst < 1e-5);
}

int main() {
    int32_t count = 0;
    IPluginCreatorInterface* const* creators = getCreators(count);
    CHECK(count == 2);
    IPluginCreatorV3One* found[2] = {};
    for (int i = 0; i < 2; ++i) {
        CHECK(!std::strcmp(creators[i]->getInterfaceInfo().kind, "PLUGIN CREATOR_V3ONE"));
        found[i] = static_cast<IPluginCreatorV3One*>(creators[i]);
        CHECK(!std::strcmp(found[i]->getPluginName(), "LowRank") && !std::strcmp(found[i]->getPluginVersion(), "1"));
        CHECK(found[i]->getFieldNames()->nbFields == 3);
    }
    CHECK(!std::strcmp(found[0]->getPluginNamespace(), "") && !std::strcmp(found[1]->getPluginNamespace(), "mile"));

    // As the ONNX parser passes a node's attributes, then with something amiss.
    std::int32_t const a_start = 8, b_start = 272;
    std::int32_t rank = 8;
    PluginField fields[] = {{"a_start", &a_start, PluginFieldType::kINT32, 1},
                            {"b_start", &b_start, PluginFieldType::kINT32, 1},
                            {"rank", &rank, PluginFieldType::kINT32, 1}};
    PluginFieldCollection all{3, fields}, less{2, fields};
    CHECK(!found[0]->createPlugin("layer", &less, TensorRTPhase::kBUILD));
    for (std::int32_t bad : {0, -1, 65}) {
        rank = bad;
        CHECK(!found[0]->createPlugin("layer", &all, TensorRTPhase::kBUILD));
    }
    rank = 8;
    IPluginV3* plugin = found[0]->createPlugin("layer", &all, TensorRTPhase::kBUILD);
    CHECK(plugin);
    if (!plugin) return 1;
    auto* core = static_cast<IPluginV3OneCore*>(plugin->getCapabilityInterface(PluginCapabilityType::kCORE));
    auto* build = static_cast<IPluginV3OneBuild*>(plugin->getCapabilityInterface(PluginCapabilityType::kBUILD));
    auto* runtime = static_cast<IPluginV3OneRuntime*>(plugin->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
    CHECK(!std::strcmp(core->getPluginName(), "LowRank") && !std::strcmp(core->getPluginNamespace(), ""));
    CHECK(build->getNbOutputs() == 1);

    for (DataType map : {DataType::kHALF, DataType::kFLOAT})
        for (DataType index : {DataType::kINT64, DataType::kINT32}) CHECK(supported(*build, layer(map, index)));
    CHECK(!supported(*build, layer(DataType::kINT8, DataType::kINT64)));
    CHECK(!supported(*build, layer(DataType::kHALF, DataType::kFLOAT)));
    auto mixed = layer(DataType::kHALF, DataType::kINT64);
    mixed[2].type = DataType::kFLOAT;
    CHECK(!supported(*build, mixed));
    auto blocked = layer(DataType::kHALF, DataType::kINT64);
    blocked[0].format = TensorFormat::kCHW2;
    CHECK(!supported(*build, blocked));
    CHECK(configured(*build, layer(DataType::kHALF, DataType::kINT64)) == 0);
    CHECK(configured(*build, layer(DataType::kHALF, DataType::kINT64, 63)) != 0);
    auto open = layer(DataType::kHALF, DataType::kINT64);
    open[0].dims.d[0] = open[2].dims.d[0] = open[3].dims.d[0] = open[4].dims.d[0] = -1;
    CHECK(configured(*build, open) == 0);
    DataType const types[] = {DataType::kHALF, DataType::kHALF, DataType::kHALF, DataType::kHALF, DataType::kINT64};
    DataType type{};
    CHECK(build->getOutputDataTypes(&type, 1, types, 5) == 0 && type == DataType::kHALF);

    // What an engine keeps is enough to make the layer again.
    IPluginV3* copy = plugin->clone();
    auto* copied = static_cast<IPluginV3OneRuntime*>(copy->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
    IPluginV3* loaded = found[0]->createPlugin("layer", copied->getFieldsToSerialize(), TensorRTPhase::kRUNTIME);
    CHECK(loaded);
    if (!loaded) return 1;
    auto* revived = static_cast<IPluginV3OneRuntime*>(loaded->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
    IPluginV3* attached = revived->attachToContext(nullptr);
    auto* ready = static_cast<IPluginV3OneRuntime*>(attached->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
    run(*runtime, DataType::kINT64);
    run(*ready, DataType::kINT32);
    for (IPluginV3* each : {plugin, copy, loaded, attached}) delete each;
    if (!failures) std::puts("ok");
    return failures != 0;
}
