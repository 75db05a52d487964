# gt_cuda: kernels and the engine around them. Included by the top CMakeLists.txt when GT_BUILD_CUDA.
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)

add_library(gt_cuda STATIC
  csrc/cuda/blend.cu
  csrc/cuda/deform.cu
  csrc/cuda/device.cc
  csrc/cuda/device_engine.cc
  csrc/cuda/device_logmel.cc
  csrc/cuda/device_model.cc
  csrc/cuda/device_splatter.cc
  csrc/cuda/errors.cc
  csrc/cuda/input_stage.cc
  csrc/cuda/lists.cu
  csrc/cuda/logmel.cu
  csrc/cuda/project.cu
  csrc/cuda/sort_scan.cu
  csrc/cuda/tokens.cu)
target_include_directories(gt_cuda PUBLIC csrc/cuda)
# The runtime is linked in: a machine without CUDA can load the result and be told so.
target_link_libraries(gt_cuda PUBLIC gt_cpu CUDA::cudart_static)

# Machine code for each architecture, PTX for the last.
list(GET GT_CUDA_ARCHITECTURES -1 GT_CUDA_NEWEST)
list(TRANSFORM GT_CUDA_ARCHITECTURES APPEND "-real" OUTPUT_VARIABLE GT_CUDA_CODE)
set_target_properties(gt_cuda PROPERTIES CUDA_ARCHITECTURES "${GT_CUDA_CODE};${GT_CUDA_NEWEST}-virtual")
# No contraction, as on the CPU: what becomes a decision must be decided alike by every backend.
# Kernels say fma where they want it.
target_compile_options(gt_cuda PRIVATE
  $<$<COMPILE_LANGUAGE:CUDA>:-fmad=false>
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra $<$<BOOL:${GT_WERROR}>:-Werror>>
  $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra $<$<BOOL:${GT_WERROR}>:-Werror=all-warnings>>)
