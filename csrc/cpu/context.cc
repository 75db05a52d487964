#include "context.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <set>
#include <stdexcept>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif
#if defined(GT_HAVE_VNNI)
#include <cpuid.h>
#endif
#include <unistd.h>

#include "amx.h"

namespace gt::cpu {
#if defined(GT_HAVE_VNNI)
namespace {

// The 256-bit form, of machines that have no AVX-512 too. gcc 12's builtin does not know it.
bool has_avx_vnni() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax & (1u << 4)) != 0;
}

}  // namespace
#endif

std::vector<const KernelTable*> available_kernels() {
  std::vector<const KernelTable*> tables;
#if defined(GT_HAVE_X86)
  // The builtins also ask whether the operating system saves the wide registers.
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#if defined(GT_HAVE_VNNI)
  const bool has_avx512_vnni = has_avx512 && __builtin_cpu_supports("avx512vnni");
  if (has_avx512_vnni) tables.push_back(&kAvx512VnniKernels);
#if defined(GT_HAVE_AMX)
  // Behind VNNI, though faster by its arithmetic: nobody gets it unasked before it has run on such a
  // processor (docs/performance-amx.md).
  if (has_avx512_vnni && may_use_amx()) tables.push_back(&kAmxKernels);
#endif
#endif
  if (has_avx512) tables.push_back(&kAvx512Kernels);
#if defined(GT_HAVE_VNNI)
  if (has_avx2 && has_avx_vnni()) tables.push_back(&kAvx2VnniKernels);
#endif
  if (has_avx2) tables.push_back(&kAvx2Kernels);
#endif
  tables.push_back(&kPortableKernels);
  return tables;
}

const KernelTable& find_kernels(const std::string& isa) {
  const auto tables = available_kernels();
  if (isa.empty()) return *tables.front();
  std::string names;
  for (const KernelTable* table : tables) {
    if (isa == table->name) return *table;
    names += names.empty() ? table->name : std::string(", ") + table->name;
  }
  throw std::invalid_argument("isa = \"" + isa + "\": this machine and build have " + names);
}

namespace {

// Cores that a cgroup v2 or v1 quota allows; 0: no quota found.
int cgroup_cores() {
  double quota = 0.0;
  double period = 0.0;
  if (std::ifstream v2("/sys/fs/cgroup/cpu.max"); v2 >> quota >> period) {
  } else {
    std::ifstream("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") >> quota;
    std::ifstream("/sys/fs/cgroup/cpu/cpu.cfs_period_us") >> period;
  }
  if (quota <= 0.0 || period <= 0.0) return 0;
  return std::max(1, static_cast<int>(std::ceil(quota / period)));
}

}  // namespace

std::vector<int> allowed_processors() {
  std::vector<int> processors;
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return processors;
  for (int i = 0; i < CPU_SETSIZE; ++i) {
    if (CPU_ISSET(i, &set)) processors.push_back(i);
  }
#endif
  return processors;
}

int count_cores(const std::vector<int>& processors, const std::string& topology) {
  std::set<std::string> cores;
  for (const int processor : processors) {
    const std::string folder = topology + "/cpu" + std::to_string(processor) + "/topology/";
    std::string siblings;
    std::ifstream(folder + "thread_siblings_list") >> siblings;
    cores.insert(siblings.empty() ? "#" + std::to_string(processor) : siblings);
  }
  return static_cast<int>(cores.size());
}

int usable_cores() {
  int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  const std::vector<int> processors = allowed_processors();
  if (!processors.empty()) cores = count_cores(processors, "/sys/devices/system/cpu");
  const int quota = cgroup_cores();
  return quota > 0 ? std::min(cores, quota) : cores;
}

namespace {

// Parts of Context::Pool::gate.
constexpr std::uint64_t kOpen = 1;
constexpr std::uint64_t kInside = 2;
constexpr std::uint64_t kJob = 1 << 16;

// Whether `condition` came true within about as long as waking a sleeping thread takes: a frame's
// stages follow each other faster than that.
template <class Condition>
bool spin_until(const Condition& condition) {
  constexpr auto kPatience = std::chrono::microseconds(60);
  const auto give_up = std::chrono::steady_clock::now() + kPatience;
  do {
    for (int i = 0; i < 32; ++i) {
      if (condition()) return true;
#if defined(GT_HAVE_X86)
      __builtin_ia32_pause();
#endif
    }
  } while (std::chrono::steady_clock::now() < give_up);
  return false;
}

}  // namespace

Context::Context(const KernelTable& kernels, int threads)
    : kernels_(kernels),
      threads_(threads),
      process_(static_cast<long>(getpid())),
      processors_(allowed_processors()),
      pool_(std::make_unique<Pool>()) {
  if (threads < 1) throw std::invalid_argument("threads must be >= 1");
  Pool& pool = *pool_;
  try {
    for (int i = 1; i < threads; ++i) pool.workers.emplace_back([&pool, i] { work(pool, i); });
  } catch (...) {
    stop();
    throw;
  }
}

Context::~Context() {
  if (process_ != static_cast<long>(getpid())) {
    // A forked child has the pool but not its threads: they cannot be joined, their mutex may be
    // held for ever, and destroying a condition that they wait for would wait for them.
    static_cast<void>(pool_.release());
    return;
  }
  stop();
}

void Context::stop() {
  {
    const std::lock_guard<std::mutex> guard(pool_->mutex);
    pool_->is_stopping = true;
  }
  pool_->wake.notify_all();
  for (std::thread& worker : pool_->workers) worker.join();
  pool_->workers.clear();
}

void Context::take_pieces(Pool& pool, int worker) {
  for (;;) {
    const std::int32_t begin = pool.next.fetch_add(pool.grain, std::memory_order_relaxed);
    if (begin >= pool.count) return;
    pool.body(begin, std::min(pool.count, begin + pool.grain), worker);
  }
}

void Context::work(Pool& pool, int worker) {
  std::uint64_t seen = 0;
  const auto is_called = [&] { return pool.is_stopping || pool.gate.load() / kJob != seen; };
  for (;;) {
    if (!spin_until(is_called)) {
      std::unique_lock<std::mutex> lock(pool.mutex);
      pool.wake.wait(lock, is_called);
    }
    if (pool.is_stopping) return;
    std::uint64_t gate = pool.gate.load();
    seen = gate / kJob;
    bool is_inside = false;
    while ((gate & kOpen) != 0 && gate / kJob == seen && !is_inside) {
      is_inside = pool.gate.compare_exchange_weak(gate, gate + kInside);
    }
    if (!is_inside) continue;
    take_pieces(pool, worker);
    const std::uint64_t left = pool.gate.fetch_sub(kInside) - kInside;
    if (left % kJob == 0) {  // closed, and the last one out
      const std::lock_guard<std::mutex> guard(pool.mutex);
      pool.done.notify_one();
    }
  }
}

// A sleeping worker is woken where the caller runs when the scheduler takes the other processors for
// busy, as it does with the halted ones of a virtual machine; it would then wait for the caller to
// finish. Without that choice it wakes where it ran before. Workers keep the limits of the thread that
// made them, whatever those of the caller are.
void Context::keep_workers_off_this_processor() {
#if defined(__linux__)
  const int processor = sched_getcpu();
  if (processor == callers_processor_ || processor < 0 || processor >= CPU_SETSIZE) return;
  callers_processor_ = processor;
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  for (const int other : processors_) {
    if (other != processor) CPU_SET(other, &allowed);
  }
  if (CPU_COUNT(&allowed) == 0) return;
  for (std::thread& worker : pool_->workers) {
    pthread_setaffinity_np(worker.native_handle(), sizeof allowed, &allowed);
  }
#endif
}

void Context::run(std::int32_t count, std::int32_t grain, const Body& body) {
  if (count <= 0) return;
  if (threads_ == 1 || count <= grain) {
    for (std::int32_t begin = 0; begin < count; begin += grain) {
      body(begin, std::min(count, begin + grain), 0);
    }
    return;
  }
  keep_workers_off_this_processor();
  Pool& pool = *pool_;
  pool.body = body;
  pool.count = count;
  pool.grain = grain;
  pool.next.store(0);
  {
    const std::lock_guard<std::mutex> guard(pool.mutex);
    pool.gate.store((pool.gate.load() / kJob + 1) * kJob + kOpen);
  }
  pool.wake.notify_all();
  take_pieces(pool, 0);
  pool.gate.fetch_sub(kOpen);
  const auto is_done = [&pool] { return pool.gate.load() % kJob == 0; };
  if (spin_until(is_done)) return;
  std::unique_lock<std::mutex> lock(pool.mutex);
  pool.done.wait(lock, is_done);
}

}  // namespace gt::cpu
