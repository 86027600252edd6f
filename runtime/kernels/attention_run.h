// How a call of attention is divided among threads, for every operator that has one.
#pragma once

#include "kernels.h"
#include "tensors.h"

namespace precast {

// Sets the division of `to`, whose other fields are given, and runs it.
void run_attention(Call& call, const Kernels& kernels, AttentionCall& to);

}  // namespace precast
