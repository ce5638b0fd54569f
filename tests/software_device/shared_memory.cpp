// Finds all thread-local memory of this library, as the dynamic loader lists it, and fills it; the library's own
// thread-local variable is the one thing that is spared (this_thread.h). There is no list of the kernels' variables:
// they stand inside functions and templates, and only the loader knows them all.
#include "shared_memory.h"

#include <link.h>

#include <cstring>

#include "faults.h"
#include "this_thread.h"

namespace software_device {

__thread ThisThread here;

namespace {

// Stores in `here` where the thread-local memory that holds it begins and ends.
int find_area(dl_phdr_info* library, size_t, void*) {
    const char* own = reinterpret_cast<const char*>(&here);
    for (int i = 0; i < library->dlpi_phnum; ++i) {
        const ElfW(Phdr)& header = library->dlpi_phdr[i];
        auto* begin = static_cast<char*>(library->dlpi_tls_data);
        if (header.p_type != PT_TLS || begin == nullptr) continue;
        if (own < begin || own >= begin + header.p_memsz) continue;
        here.static_shared = begin;
        here.static_shared_bytes = header.p_memsz;
        return 1;
    }
    return 0;
}

}  // namespace

void poison_static_shared_memory() {
    if (here.static_shared == nullptr) dl_iterate_phdr(find_area, nullptr);
    if (here.static_shared == nullptr) give_up("the thread-local memory of the kernels was not found");
    const ThisThread own = here;
    memset(own.static_shared, 0xFF, own.static_shared_bytes);
    memcpy(&here, &own, sizeof own);
}

}  // namespace software_device
