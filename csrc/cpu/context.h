// The machine as an engine uses it: an instruction set and a pool of threads.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "kernel_table.h"

namespace gt::cpu {

// Instruction sets that this build has and this machine can run, the default first.
std::vector<const KernelTable*> available_kernels();

// Throws std::invalid_argument naming what there is. An empty name is the best.
const KernelTable& find_kernels(const std::string& isa);

// Cores this process may run on (affinity and, where there is one, the cgroup's quota). Two hardware
// threads of one core count once: they share the units that a frame keeps busy.
int usable_cores();

// Logical processors that the calling thread may run on; empty where the system does not tell.
std::vector<int> allowed_processors();

// How many cores these logical processors are, by Linux's description of them; one that it does not
// describe is a core of its own.
int count_cores(const std::vector<int>& processors, const std::string& topology);

class Context {
 public:
  // threads >= 1, the calling thread included.
  Context(const KernelTable& kernels, int threads);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  const KernelTable& kernels() const { return kernels_; }
  int threads() const { return threads_; }

  // Calls body(begin, end, worker) for pieces of [0, count) of at most `grain`, worker in
  // [0, threads()); returns when all are done. Pieces are handed out in order. One caller at a time;
  // `body` must not throw.
  template <class F>
  void parallel_for(std::int32_t count, std::int32_t grain, const F& body) {
    const auto call = [](const void* f, std::int32_t begin, std::int32_t end, int worker) {
      (*static_cast<const F*>(f))(begin, end, worker);
    };
    run(count, grain, {&body, call});
  }

 private:
  // A borrowed function: std::function would allocate for what a frame's stages capture.
  struct Body {
    const void* function;
    void (*call)(const void* function, std::int32_t begin, std::int32_t end, int worker);
    void operator()(std::int32_t begin, std::int32_t end, int worker) const {
      call(function, begin, end, worker);
    }
  };
  // What the threads share. `gate` says whether there is work, and who is at it: bit 0, open; bits
  // 1 to 15, threads inside; above, the number of the job. The caller closes it when the pieces are
  // taken and waits for those inside alone, never for a thread that has yet to wake up.
  struct Pool {
    std::vector<std::thread> workers;
    std::mutex mutex;
    std::condition_variable wake;
    std::condition_variable done;
    std::atomic<std::uint64_t> gate{0};
    std::atomic<bool> is_stopping{false};
    Body body{};
    std::int32_t count = 0;
    std::int32_t grain = 1;
    std::atomic<std::int32_t> next{0};
  };
  static void work(Pool& pool, int worker);
  static void take_pieces(Pool& pool, int worker);
  void run(std::int32_t count, std::int32_t grain, const Body& body);
  void stop();
  void keep_workers_off_this_processor();

  const KernelTable& kernels_;
  const int threads_;
  const long process_;  // whose threads the workers are
  const std::vector<int> processors_;  // that the workers may use
  std::unique_ptr<Pool> pool_;
  int callers_processor_ = -1;  // that the workers keep off
};

}  // namespace gt::cpu
