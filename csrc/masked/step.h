#ifndef DEEPSTRUCT_MASKED_STEP_H
#define DEEPSTRUCT_MASKED_STEP_H

#include <cstdint>

namespace deepstruct {

// Where the rows of a step lie: `rows` of `width` numbers, those of a gate `gate` numbers after those of the one
// before it, and rows of gradients `stride` apart, their gates `grad_gate`.
struct Step {
  int64_t rows, width, gate, stride, grad_gate;
};

}  // namespace deepstruct

#endif
