// How the deformer's weights lie in memory: in the order in which tensor cores take them, so that a
// lane's share is one vector load and a warp's loads are one run.
//
// Every step of the networks is y = W2 a(W1 x + b1) + b2, also attention: its scores are W1 x + b1, a
// is the softmax, W2 holds the values. It is computed 16 hidden values at a time, a *chunk*:
//
//   fragments of W1   [D / 16 steps of k][2 tiles of 8 hidden values]
//   fragments of W2   [tiles of 8 outputs]
//   b1                [16] float
//
// where D is d_model rounded up to a width that the kernels are made for.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gt/half.h"

namespace gt::cuda {

constexpr int kChunkHidden = 16;
constexpr int kLanes = 32;

namespace {

// One 16 x 8 fragment (k x n) of half-precision values: 4 per lane; when split, 4 high halves and then
// 4 low ones. See mma.h for the order.
GT_HD constexpr int fragment_bytes(bool is_split) { return kLanes * 4 * 2 * (is_split ? 2 : 1); }

GT_HD constexpr int chunk_bytes(int padded_d, int out_tiles, bool is_split) {
  return (2 * padded_d / 16 + out_tiles) * fragment_bytes(is_split) +
         kChunkHidden * static_cast<int>(sizeof(float));
}

// A block brings chunks into shared memory by the stage: as many whole chunks as fit in this. Where
// chunks are small a stage is about 8 KiB, so that a barrier is followed by some work.
GT_HD constexpr int stage_capacity(int padded_d, bool is_split) {
  const int chunk = chunk_bytes(padded_d, padded_d / 8, is_split);
  return chunk * (chunk < 8192 ? 8192 / (chunk - kChunkHidden * 4) : 1);
}

// Writes element (k, n) of a fragment.
GT_HD void set_fragment(unsigned char* fragment, bool is_split, int k, int n, float value) {
  const int lane = n * 4 + k % 8 / 2;
  std::uint16_t* halves = reinterpret_cast<std::uint16_t*>(fragment) + lane * (is_split ? 8 : 4) +
                          k / 8 * 2 + k % 2;
  const std::uint16_t high = half_from_float(value);
  halves[0] = high;
  if (is_split) halves[4] = half_from_float(value - float_from_half(high));
}

// Element of W1 at (hidden value 0..15 of this chunk, input channel).
GT_HD void set_first(unsigned char* chunk, bool is_split, int hidden, int input, float value) {
  const int fragment = input / 16 * 2 + hidden / 8;
  set_fragment(chunk + fragment * fragment_bytes(is_split), is_split, input % 16, hidden % 8, value);
}

// Element of W2 at (output, hidden value 0..15 of this chunk).
GT_HD void set_second(unsigned char* chunk, int padded_d, bool is_split, int output, int hidden,
                      float value) {
  const int fragment = 2 * padded_d / 16 + output / 8;
  set_fragment(chunk + fragment * fragment_bytes(is_split), is_split, hidden, output % 8, value);
}

GT_HD float* chunk_bias(unsigned char* chunk, int padded_d, int out_tiles, bool is_split) {
  return reinterpret_cast<float*>(chunk + chunk_bytes(padded_d, out_tiles, is_split)) - kChunkHidden;
}

}  // namespace

// A run of whole chunks that a block brings into shared memory at once; at most stage_capacity bytes.
struct Stage {
  std::uint32_t offset;  // bytes, in the avatar's weights or in the frame's folded tokens
  std::uint16_t bytes16;  // size in units of 16 bytes
  std::uint8_t chunks;
  std::uint8_t is_folded;
};

}  // namespace gt::cuda
