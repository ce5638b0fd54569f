// Static shared memory of kernels: `__shared__` variables are thread-local here, one copy for each host thread that
// runs blocks.
#pragma once

namespace software_device {

// Fills the calling thread's copy of all static shared memory with 0xFF, which reads as NaN or -1.
void poison_static_shared_memory();

}  // namespace software_device
