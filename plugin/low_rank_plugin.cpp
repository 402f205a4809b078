#include "low_rank_plugin.h"

#include <climits>
#include <cstring>
#include <new>
#include <optional>
#include <utility>

using nvinfer1::DataType;

namespace mile {
namespace {

constexpr char kName[] = "LowRank";
constexpr char kVersion[] = "1";

enum Input { kProduct, kBias, kX, kBank, kExpert, kInputs };

nvinfer1::ILoggerFinder* logger_finder = nullptr;

void error(char const* message) {
    nvinfer1::ILogger* logger = logger_finder ? logger_finder->findLogger() : nullptr;
    if (logger) logger->log(nvinfer1::ILogger::Severity::kERROR, message);
}

struct FieldName {
    char const* name;
    std::int64_t LowRankFields::*member;
};
constexpr FieldName kFields[] = {
    {"a_start", &LowRankFields::a_start}, {"b_start", &LowRankFields::b_start}, {"rank", &LowRankFields::rank}};

// ONNX integers arrive as int32 from today's parsers; as int64 from ours and, perhaps, tomorrow's.
std::optional<std::int64_t> integer(nvinfer1::PluginField const& field) {
    if (field.length != 1 || !field.data) return std::nullopt;
    if (field.type == nvinfer1::PluginFieldType::kINT32) return *static_cast<std::int32_t const*>(field.data);
    if (field.type == nvinfer1::PluginFieldType::kINT64) {
        std::int64_t value;
        std::memcpy(&value, field.data, sizeof value);
        return value;
    }
    return std::nullopt;
}

bool read(nvinfer1::PluginFieldCollection const& given, LowRankFields& fields) {
    for (FieldName const& wanted : kFields) {
        std::optional<std::int64_t> value;
        for (int32_t i = 0; i < given.nbFields; ++i)
            if (!std::strcmp(given.fields[i].name, wanted.name)) value = integer(given.fields[i]);
        if (!value || *value < 0) return false;
        fields.*wanted.member = *value;
    }
    return fields.rank >= 1 && fields.rank <= kLargestRank;
}

bool is_map(DataType type) { return type == DataType::kHALF || type == DataType::kFLOAT; }

// Whether known sizes fit each other; -1 stands for a size that is not known yet.
bool consistent(nvinfer1::Dims const& product, nvinfer1::Dims const& bias, nvinfer1::Dims const& x,
                nvinfer1::Dims const& bank, nvinfer1::Dims const& expert) {
    if (product.nbDims != 3 || bias.nbDims != 1 || x.nbDims != 3 || bank.nbDims != 2 || expert.nbDims != 1)
        return false;
    auto agree = [](auto a, auto b) { return a == b || a < 0 || b < 0; };
    return agree(product.d[0], x.d[0]) && agree(product.d[1], x.d[1]) && agree(product.d[2], bias.d[0]) &&
           agree(product.d[0], expert.d[0]);
}

}  // namespace

LowRankPlugin::LowRankPlugin(LowRankFields const& fields, std::string plugin_namespace)
    : fields_(fields), namespace_(std::move(plugin_namespace)) {}

nvinfer1::IPluginCapability* LowRankPlugin::getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept {
    switch (type) {
        case nvinfer1::PluginCapabilityType::kCORE:
            return static_cast<nvinfer1::IPluginV3OneCore*>(this);
        case nvinfer1::PluginCapabilityType::kBUILD:
            return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
        case nvinfer1::PluginCapabilityType::kRUNTIME:
            return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
    }
    return nullptr;
}

nvinfer1::IPluginV3* LowRankPlugin::clone() noexcept { return new (std::nothrow) LowRankPlugin(fields_, namespace_); }

char const* LowRankPlugin::getPluginName() const noexcept { return kName; }
char const* LowRankPlugin::getPluginVersion() const noexcept { return kVersion; }
char const* LowRankPlugin::getPluginNamespace() const noexcept { return namespace_.c_str(); }
int32_t LowRankPlugin::getNbOutputs() const noexcept { return 1; }

int32_t LowRankPlugin::configurePlugin(nvinfer1::DynamicPluginTensorDesc const* in, int32_t inputs,
                                       nvinfer1::DynamicPluginTensorDesc const* /* out */,
                                       int32_t /* outputs */) noexcept {
    if (inputs == kInputs && consistent(in[kProduct].desc.dims, in[kBias].desc.dims, in[kX].desc.dims,
                                        in[kBank].desc.dims, in[kExpert].desc.dims))
        return 0;
    error("mile::LowRank needs product (B, N, out), bias (out), x (B, N, in), bank (E, P) and expert (B)");
    return -1;
}

int32_t LowRankPlugin::getOutputDataTypes(DataType* types, int32_t outputs, DataType const* input_types,
                                          int32_t inputs) const noexcept {
    if (outputs != 1 || inputs != kInputs) return -1;
    types[0] = input_types[kProduct];
    return 0;
}

int32_t LowRankPlugin::getOutputShapes(nvinfer1::DimsExprs const* in, int32_t inputs,
                                       nvinfer1::DimsExprs const* /* shape_inputs */, int32_t /* shape_input_count */,
                                       nvinfer1::DimsExprs* out, int32_t outputs,
                                       nvinfer1::IExprBuilder& /* builder */) noexcept {
    if (outputs != 1 || inputs != kInputs) return -1;
    out[0] = in[kProduct];
    return 0;
}

bool LowRankPlugin::supportsFormatCombination(int32_t position, nvinfer1::DynamicPluginTensorDesc const* tensors,
                                              int32_t inputs, int32_t /* outputs */) noexcept {
    if (inputs != kInputs) return false;
    nvinfer1::PluginTensorDesc const& own = tensors[position].desc;
    if (own.format != nvinfer1::TensorFormat::kLINEAR) return false;
    if (position == kExpert) return own.type == DataType::kINT64 || own.type == DataType::kINT32;
    return is_map(own.type) && own.type == tensors[kProduct].desc.type;
}

int32_t LowRankPlugin::onShapeChange(nvinfer1::PluginTensorDesc const* in, int32_t inputs,
                                     nvinfer1::PluginTensorDesc const* /* out */, int32_t /* outputs */) noexcept {
    if (inputs == kInputs &&
        consistent(in[kProduct].dims, in[kBias].dims, in[kX].dims, in[kBank].dims, in[kExpert].dims))
        return 0;
    error("mile::LowRank was given sizes that do not fit each other");
    return -1;
}

int32_t LowRankPlugin::enqueue(nvinfer1::PluginTensorDesc const* in, nvinfer1::PluginTensorDesc const* /* out */,
                               void const* const* inputs, void* const* outputs, void* /* workspace */,
                               cudaStream_t stream) noexcept {
    nvinfer1::Dims const &product = in[kProduct].dims, &x = in[kX].dims, &bank = in[kBank].dims;
    for (auto size : {product.d[0], product.d[1], product.d[2], x.d[2], bank.d[0]})
        if (size > INT_MAX) return -1;
    LowRankCall call{};
    call.type = in[kProduct].type == DataType::kHALF ? NumberType::kHalf : NumberType::kSingle;
    call.shape = {static_cast<int>(product.d[0]), static_cast<int>(product.d[1]), static_cast<int>(x.d[2]),
                  static_cast<int>(product.d[2]), static_cast<int>(fields_.rank)};
    call.experts = static_cast<int>(bank.d[0]);
    call.row_length = bank.d[1];
    call.a_start = fields_.a_start;
    call.b_start = fields_.b_start;
    call.expert_bytes = in[kExpert].type == DataType::kINT64 ? 8 : 4;
    call.product = inputs[kProduct];
    call.bias = inputs[kBias];
    call.x = inputs[kX];
    call.bank = inputs[kBank];
    call.expert = inputs[kExpert];
    call.y = outputs[0];
    cudaError_t const status = low_rank(call, stream);
    if (status == cudaSuccess) return 0;
    error(cudaGetErrorString(status));
    return -1;
}

nvinfer1::IPluginV3* LowRankPlugin::attachToContext(nvinfer1::IPluginResourceContext* /* context */) noexcept {
    return clone();
}

nvinfer1::PluginFieldCollection const* LowRankPlugin::getFieldsToSerialize() noexcept {
    serialized_.clear();
    for (FieldName const& field : kFields)
        serialized_.emplace_back(field.name, &(fields_.*field.member), nvinfer1::PluginFieldType::kINT64, 1);
    collection_ = {static_cast<int32_t>(serialized_.size()), serialized_.data()};
    return &collection_;
}

LowRankCreator::LowRankCreator(std::string plugin_namespace) : namespace_(std::move(plugin_namespace)) {
    for (FieldName const& field : kFields)
        names_.emplace_back(field.name, nullptr, nvinfer1::PluginFieldType::kINT64, 1);
    collection_ = {static_cast<int32_t>(names_.size()), names_.data()};
}

nvinfer1::IPluginV3* LowRankCreator::createPlugin(char const* /* name */,
                                                  nvinfer1::PluginFieldCollection const* fields,
                                                  nvinfer1::TensorRTPhase /* phase */) noexcept {
    LowRankFields read_fields;
    if (fields && read(*fields, read_fields)) return new (std::nothrow) LowRankPlugin(read_fields, namespace_);
    error("mile::LowRank needs the integers a_start, b_start and rank, the rank from 1 to 64");
    return nullptr;
}

nvinfer1::PluginFieldCollection const* LowRankCreator::getFieldNames() noexcept { return &collection_; }
char const* LowRankCreator::getPluginName() const noexcept { return kName; }
char const* LowRankCreator::getPluginVersion() const noexcept { return kVersion; }
char const* LowRankCreator::getPluginNamespace() const noexcept { return namespace_.c_str(); }

}  // namespace mile

// What IPluginRegistry::loadLibrary looks for. The library needs no symbol of TensorRT itself, so it links without it.
extern "C" __attribute__((visibility("default"))) void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
    mile::logger_finder = finder;
}

extern "C" __attribute__((visibility("default"))) nvinfer1::IPluginCreatorInterface* const* getCreators(
    int32_t& count) {
    static mile::LowRankCreator anywhere(""), own("mile");
    static nvinfer1::IPluginCreatorInterface* const creators[] = {&anywhere, &own};
    count = 2;
    return creators;
}
