"""The low-rank products as ONNX model-local functions, so that a fused kernel can take their place by name.

ONNX Runtime and TensorRT inline the function to native layers; TensorRT with a plugin named ``LowRank`` registered and
``OnnxParserFlag.ENABLE_PLUGIN_OVERRIDE`` set creates the plugin instead. One file serves both. There is no fused kernel
for ``LowRankMix`` and ``LowRankSelf``: a mixing gate runs on native layers everywhere.
"""

from __future__ import annotations

import onnx

OPSET = 18

# Each sample's own A (rank, in) and B (out, rank), cut out of its expert's row.
_PAIR_IN_ROW = """\
    axis = Constant <value_ints: ints = [1]> ()
    a0 = Constant <value_ints: ints = @a_start> ()
    a1 = Constant <value_ints: ints = @a_end> ()
    b0 = Constant <value_ints: ints = @b_start> ()
    b1 = Constant <value_ints: ints = @b_end> ()
    a_dims = Constant <value_ints: ints = @a_shape> ()
    b_dims = Constant <value_ints: ints = @b_shape> ()
    row = Gather <axis: int = 0> (bank, expert)
    a_flat = Slice (row, a0, a1, axis)
    b_flat = Slice (row, b0, b1, axis)
    a = Reshape (a_flat, a_dims)
    b = Reshape (b_flat, b_dims)"""

# product (B, N, out) + bias (out) + (x A^T) B^T, each sample under its own A (rank, in) and B (out, rank). The bias
# rides along as one more rank whose activation is 1: adding it apart would read and write the whole map once more.
# What Pad reads is a constant tensor, not `value_ints`, whose shape ONNX Runtime 1.23 (Python 3.10) cannot infer.
_LOW_RANK = f"""
<domain: "mile", opset_import: ["" : {OPSET}]>
LowRank <a_start, a_end, a_shape, b_start, b_end, b_shape, rank> (product, bias, x, bank, expert) => (y)
{{
{_PAIR_IN_ROW}
    one_more = Constant <value: tensor = int64[6] {{0, 0, 0, 0, 0, 1}}> ()
    float_one = Constant <value_float: float = 1.0> ()
    one = CastLike (float_one, product)
    column_axes = Constant <value_ints: ints = [0, 2]> ()
    bias_column = Unsqueeze (bias, column_axes)
    batch = Shape <start: int = 0, end: int = 1> (expert)
    rest = Constant <value_ints: ints = [1, 1]> ()
    repeats = Concat <axis: int = 0> (batch, rest)
    bias_columns = Expand (bias_column, repeats)
    b_and_bias = Concat <axis: int = 2> (b, bias_columns)
    a_transposed = Transpose <perm: ints = [0, 2, 1]> (a)
    b_transposed = Transpose <perm: ints = [0, 2, 1]> (b_and_bias)
    narrow = MatMul (x, a_transposed)
    narrow_and_one = Pad (narrow, one_more, one)
    wide = MatMul (narrow_and_one, b_transposed)
    y = Add (product, wide)
}}
"""

# x (W + sum of weight * B A) + bias, each sample under its own K rows: their A side by side along the rank, scaled by
# their weights, and their B beside each other. W is (in, out).
_LOW_RANK_MIX = f"""
<domain: "mile", opset_import: ["" : {OPSET}]>
LowRankMix <a_start, a_end, a_shape, b_start, b_end, b_parts, b_shape> (x, weight, bias, bank, experts, weights) => (y)
{{
    axis = Constant <value_ints: ints = [2]> ()
    a0 = Constant <value_ints: ints = @a_start> ()
    a1 = Constant <value_ints: ints = @a_end> ()
    b0 = Constant <value_ints: ints = @b_start> ()
    b1 = Constant <value_ints: ints = @b_end> ()
    a_dims = Constant <value_ints: ints = @a_shape> ()
    part_dims = Constant <value_ints: ints = @b_parts> ()
    b_dims = Constant <value_ints: ints = @b_shape> ()
    rows = Gather <axis: int = 0> (bank, experts)
    a_flat = Slice (rows, a0, a1, axis)
    share = CastLike (weights, x)
    share_column = Unsqueeze (share, axis)
    a_scaled = Mul (a_flat, share_column)
    a = Reshape (a_scaled, a_dims)
    b_flat = Slice (rows, b0, b1, axis)
    b_parts = Reshape (b_flat, part_dims)
    b_upright = Transpose <perm: ints = [0, 1, 3, 2]> (b_parts)
    b = Reshape (b_upright, b_dims)
    a_transposed = Transpose <perm: ints = [0, 2, 1]> (a)
    update = MatMul (a_transposed, b)
    merged = Add (weight, update)
    product = MatMul (x, merged)
    y = Add (product, bias)
}}
"""
# As LowRank, but every token weighs the ranks: shares of its response's length, the top_k largest, softmax, and silence
# below delta. A row of A that is zero is no rank.
_LOW_RANK_SELF = f"""
<domain: "mile", opset_import: ["" : {OPSET}]>
LowRankSelf <a_start, a_end, a_shape, b_start, b_end, b_shape, top_k, tau, delta>
(product, bias, x, bank, expert) => (y)
{{
{_PAIR_IN_ROW}
    k = Constant <value_ints: ints = @top_k> ()
    temperature = Constant <value_float: float = @tau> ()
    least_share = Constant <value_float: float = @delta> ()
    zero = Constant <value_float: float = 0.0> ()
    tiny = Constant <value_float: float = 1e-12> ()
    absent = Constant <value_float: float = -1e30> ()
    last = Constant <value_ints: ints = [-1]> ()
    a_transposed = Transpose <perm: ints = [0, 2, 1]> (a)
    b_transposed = Transpose <perm: ints = [0, 2, 1]> (b)
    narrow = MatMul (x, a_transposed)
    response = Cast <to: int = 1> (narrow)
    length = ReduceL2 <keepdims: int = 1> (response, last)
    divisor = Max (length, tiny)
    share = Div (response, divisor)
    none = Equal (response, zero)
    there = Where (none, absent, share)
    largest, places = TopK <axis: int = -1> (there, k)
    past_last = Constant <value_ints: ints = [9223372036854775807]> ()
    least = Slice (largest, last, past_last, last)
    among = GreaterOrEqual (there, least)
    kept = Where (among, there, absent)
    level = Div (kept, temperature)
    weight = Softmax <axis: int = -1> (level)
    speaks = GreaterOrEqual (share, least_share)
    loud = Where (speaks, weight, zero)
    loud_enough = CastLike (loud, narrow)
    weighted = Mul (narrow, loud_enough)
    wide = MatMul (weighted, b_transposed)
    beside = Add (wide, bias)
    y = Add (product, beside)
}}
"""
_BODIES = {"LowRank": _LOW_RANK, "LowRankMix": _LOW_RANK_MIX, "LowRankSelf": _LOW_RANK_SELF}


def add_low_rank_functions(model: onnx.ModelProto) -> None:
    """Give a model whose nodes call functions of the domain ``mile`` the bodies of those that it calls."""
    called = {node.op_type for node in model.graph.node if node.domain == "mile"}
    model.functions.extend(onnx.parser.parse_function(body) for name, body in _BODIES.items() if name in called)
    if all(entry.domain != "mile" for entry in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid("mile", 1))
