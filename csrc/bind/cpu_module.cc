#include <vector>

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../cpu/context.h"
#include "bindings.h"

namespace py = pybind11;

PYBIND11_MODULE(_cpu, m) {
  m.doc() = "gt_infer's CPU core. Internal: use gt_infer.Renderer.";
  m.def(
      "available_isas",
      [] {
        std::vector<std::string> names;
        for (const auto* table : gt::cpu::available_kernels()) names.emplace_back(table->name);
        return names;
      },
      "Instruction sets that this build has and this machine can run, the default first.");
  m.def("usable_cores", &gt::cpu::usable_cores,
        "Cores this process may run on (affinity and cgroup quota).");
  m.def(
      "build_info",
      [] {
        py::dict info;
        info["version"] = GT_VERSION;
        info["compiler"] = GT_COMPILER;
        info["cuda"] = GT_CUDA_STATUS;
        return info;
      },
      "How this extension was built.");
  gt::bind::bind_logmel(m);
  gt::bind::bind_engine(m);
}
