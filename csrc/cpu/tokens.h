// The four tokens of a frame (MODEL section 2, steps 2 to 4) and their folding into the layers.
#pragma once

#include <memory_resource>
#include <vector>

#include "model.h"

namespace gt::cpu {

struct FrameInput {
  const float* audio;   // [8, channels, 16]
  int audio_channels;
  float eye;            // 0 open .. 1 shut
  const float* camera;  // [12]
};

constexpr int kWindows = 8;
constexpr int kWindowSteps = 16;
constexpr int kEyeCode = 32;
constexpr int kCameraInputs = 12;

// Memory for what a frame forgets again. An engine keeps the block behind it, so that frames do not
// allocate.
using Arena = std::pmr::monotonic_buffer_resource;

// tokens: [4, d_model], audio, eye, camera, null.
void compute_tokens(const Model& model, const KernelTable& kernels, const FrameInput& input, Arena& arena,
                    std::vector<float>& tokens);

// One layer's scores [4 n_head, d_model] and mix [d_model, 3 n_head] for these tokens; see LayerWeights.
struct FoldedLayer {
  FoldedLayer(const FoldSource& source, int d_model, int n_head);
  PackedWeights scores;
  PackedWeights mix;
  PackedWeights hidden_mix;  // of the first layer [rows of its FFN, 3 n_head]: H mix (model.h)
};
void fold_layer(const FoldSource& source, const KernelTable& kernels, int d_model, int n_head,
                const std::vector<float>& tokens, Arena& arena, FoldedLayer& folded);

}  // namespace gt::cpu
