// One block runs at a time: there is one shared memory, of the size that any GPU gives a block without
// being asked for more. It is full of NaN when a block starts.
#pragma once

#include "execution.h"

namespace gt::cuda {
namespace {

template <class T>
T& block_shared() {
  static_assert(sizeof(T) <= shim::kSharedBytes, "more than a kernel may declare");
  return *reinterpret_cast<T*>(shim::shared_memory);
}

}  // namespace
}  // namespace gt::cuda
