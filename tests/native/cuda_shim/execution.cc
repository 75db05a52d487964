#include "execution.h"

#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "cuda_pipeline.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace gt::shim {

alignas(256) unsigned char shared_memory[kSharedBytes];

namespace {

constexpr std::size_t kStackBytes = 128 * 1024;
constexpr unsigned kWarp = 32;

enum class Wait { kNone, kBlock, kWarp, kDone };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<unsigned char[]> stack;
  Wait wait = Wait::kDone;
  int value = 0;      // brought to the block's barrier; afterwards the sum
  unsigned turn = 0;  // exchanges so far: two buffers take turns
  struct Copy {
    void* to;
    const void* from;
    std::size_t bytes;
  };
  std::vector<Copy> copies;
};

struct WarpWords {
  float words[2][kWarp * kMaxWords];
};

std::vector<Fiber> fibers;
std::vector<WarpWords> warps;
ucontext_t scheduler;
unsigned running = 0;
const std::function<void()>* body = nullptr;

void yield(Wait wait) {
  Fiber& fiber = fibers[running];
  fiber.wait = wait;
  swapcontext(&fiber.context, &scheduler);
}

void enter() {
  (*body)();
  yield(Wait::kDone);
}

void resume(unsigned index) {
  running = index;
  threadIdx = {index, 0, 0};
  fibers[index].wait = Wait::kNone;
  swapcontext(&scheduler, &fibers[index].context);
}

// Lets go whoever has all that he waits for: true when anybody was.
bool release(unsigned threads) {
  bool is_any = false;
  for (unsigned first = 0; first < threads; first += kWarp) {
    bool is_complete = true;
    for (unsigned i = first; i < first + kWarp && i < threads; ++i) {
      is_complete = is_complete && (fibers[i].wait == Wait::kWarp || fibers[i].wait == Wait::kDone);
    }
    for (unsigned i = first; is_complete && i < first + kWarp && i < threads; ++i) {
      if (fibers[i].wait != Wait::kWarp) continue;
      fibers[i].wait = Wait::kNone;
      is_any = true;
    }
  }
  if (is_any) return true;
  int sum = 0;
  for (unsigned i = 0; i < threads; ++i) {
    if (fibers[i].wait == Wait::kBlock) {
      sum += fibers[i].value;
      is_any = true;
    } else if (fibers[i].wait != Wait::kDone) {
      std::fprintf(stderr, "shim: some threads wait for their block, others for their warp\n");
      std::exit(1);
    }
  }
  for (unsigned i = 0; i < threads; ++i) {
    if (fibers[i].wait != Wait::kBlock) continue;
    fibers[i].value = sum;
    fibers[i].wait = Wait::kNone;
  }
  return is_any;
}

void run_block(unsigned threads) {
  std::memset(shared_memory, 0xff, kSharedBytes);
  for (unsigned i = 0; i < threads; ++i) {
    Fiber& fiber = fibers[i];
    fiber.wait = Wait::kNone;
    fiber.turn = 0;
    fiber.copies.clear();
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, enter, 0);
  }
  do {
    for (unsigned n = 0; n < threads; ++n) {
      const unsigned i = state.is_reversed ? threads - 1 - n : n;
      if (fibers[i].wait == Wait::kNone) resume(i);
    }
  } while (release(threads));
}

}  // namespace

cudaError_t run_grid(dim3 grid, dim3 block, cudaStream_t stream, const std::function<void()>& thread) {
  ++state.launches;
  state.foreign_streams += stream != state.stream;
  if (grid.x * grid.y * grid.z == 0 || grid.y > 65535 || grid.z > 65535 || block.x == 0 ||
      block.x > 1024 || block.y != 1 || block.z != 1) {
    return cudaErrorInvalidConfiguration;
  }
  while (fibers.size() < block.x) {
    fibers.emplace_back();
    fibers.back().stack = std::make_unique<unsigned char[]>(kStackBytes);
  }
  warps.resize((block.x + kWarp - 1) / kWarp);
  gridDim = grid;
  blockDim = block;
  body = &thread;
  for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z) {
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y) {
      for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) run_block(block.x);
    }
  }
  return cudaSuccess;
}

int block_barrier(int value) {
  fibers[running].value = value;
  yield(Wait::kBlock);
  return fibers[running].value;
}

const float* warp_exchange(const float* words, int count) {
  float* shared = warps[running / kWarp].words[fibers[running].turn++ % 2];
  for (int i = 0; i < count; ++i) shared[running % kWarp * kMaxWords + static_cast<unsigned>(i)] = words[i];
  yield(Wait::kWarp);
  return shared;
}

}  // namespace gt::shim

using gt::shim::fibers;
using gt::shim::running;

void __pipeline_memcpy_async(void* to, const void* from, std::size_t bytes) {
  fibers[running].copies.push_back({to, from, bytes});
}
void __pipeline_commit() {}
void __pipeline_wait_prior(int) {
  for (const auto& copy : fibers[running].copies) std::memcpy(copy.to, copy.from, copy.bytes);
  fibers[running].copies.clear();
}
