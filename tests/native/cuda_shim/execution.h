// Blocks run one after another, a block's threads as fibers: each runs until it waits for others, at a
// barrier or in an exchange with its warp, and goes on when all that it waits for have arrived.
#pragma once

#include <functional>

#include "cuda_runtime_api.h"

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace gt::shim {

cudaError_t run_grid(dim3 grid, dim3 block, cudaStream_t stream, const std::function<void()>& thread);

constexpr std::size_t kSharedBytes = 48 * 1024;
extern unsigned char shared_memory[kSharedBytes];

// Waits for the block's other threads that have not returned; gives the sum of what they passed.
int block_barrier(int value);

// Waits for the warp's other lanes; gives what each has brought: words[lane * kMaxWords + i].
constexpr int kMaxWords = 12;
const float* warp_exchange(const float* words, int count);

}  // namespace gt::shim

inline void __syncthreads() { gt::shim::block_barrier(0); }
inline int __syncthreads_count(int predicate) { return gt::shim::block_barrier(predicate != 0 ? 1 : 0); }
inline void __syncwarp() { gt::shim::warp_exchange(nullptr, 0); }
inline float __shfl_xor_sync(unsigned, float value, int lane_mask) {
  const float* all = gt::shim::warp_exchange(&value, 1);
  return all[(static_cast<int>(threadIdx.x % 32) ^ lane_mask) * gt::shim::kMaxWords];
}
