// Lets a long op stop when the program wants it to: in Python, on Ctrl-C.
#pragma once
#include "core/isa.h"

namespace gramian {

// Throws if the op is to stop. Set once, by gramian._C; the ops know nothing of Python.
using InterruptCheck = void (*)();
GRAMIAN_EXPORT void set_interrupt_check(InterruptCheck check);

// For the thread that called an op, between pieces of work: asks at most every tenth of a second.
void check_interrupt();

}  // namespace gramian
