// Whether this process may use the tile registers of AMX.
#pragma once

namespace gt::cpu {

// True where the processor has them with byte products, the system saves them, and it grants this
// process their use. Asking is what grants it, for the whole process and its children: a question of
// a system call, so ask when kernels are chosen, not per frame. A refusal is no error.
bool may_use_amx();

}  // namespace gt::cpu
