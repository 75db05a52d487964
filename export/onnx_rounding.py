"""Half-precision graphs as a judge can run them anywhere: float32 with every rounding written out.

ONNX Runtime has no bfloat16 products on the CPU, and where it lacks float16 ones it leaves
roundings out as it likes. TensorRT, strongly typed, rounds what the types say. So the gate runs the
graph's meaning: each node in float32, its half-precision result rounded before the next.
"""

from __future__ import annotations

from typing import Any

__all__ = ["with_explicit_rounding"]


def with_explicit_rounding(model: Any) -> Any:
    """A float32 model that computes what the types of a float16 or bfloat16 `model` say.

    Inputs become float32 too and are rounded first. Products sum in float32, as tensor cores do.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    halves = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    kinds: dict[str, int] = {}  # tensors that are half precision in `model`
    nodes: list[Any] = []

    def rounded(name: str, kind: int) -> None:
        """Makes `name` the float32 value of `name`.exact after rounding."""
        kinds[name] = kind
        half = f"{name}.half"
        nodes.append(helper.make_node("Cast", [f"{name}.exact"], [half], to=kind))
        nodes.append(helper.make_node("Cast", [half], [name], to=TensorProto.FLOAT))

    for value in graph.input:
        kind = value.type.tensor_type.elem_type
        if kind in halves:
            # The rounded value takes a new name: an input's own is the caller's.
            inner = f"{value.name}.rounded"
            nodes.append(helper.make_node("Identity", [value.name], [f"{inner}.exact"]))
            rounded(inner, kind)
            value.type.tensor_type.elem_type = TensorProto.FLOAT
            for node in graph.node:
                node.input[:] = [inner if name == value.name else name for name in node.input]
    for initializer in graph.initializer:
        if initializer.data_type in halves:
            kinds[initializer.name] = initializer.data_type
            wide = numpy_helper.to_array(initializer).astype("float32")
            initializer.CopyFrom(numpy_helper.from_array(wide, initializer.name))
    for node in graph.node:
        kind = next((kinds[name] for name in node.input if name in kinds), None)
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to":
                kind = attribute.i if attribute.i in halves else None
                attribute.i = TensorProto.FLOAT if kind else attribute.i
        nodes.append(node)
        if kind is not None:
            outputs = list(node.output)
            node.output[:] = [f"{name}.exact" for name in outputs]
            for name in outputs:
                rounded(name, kind)
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    return result
