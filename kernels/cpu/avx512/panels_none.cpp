// For processors and compilers without AVX-512: nothing here is called, as available() says no.
#include "kernels/cpu/avx512/panels.h"

#include <cstdlib>

namespace plimsoll::cpu::avx512 {

bool available() {
    return false;
}
void pack_left(float*, int64_t, const float*, int64_t, int64_t, int64_t, int64_t) {
    std::abort();
}
void pack_right(float*, int64_t, const float*, int64_t, int64_t, int64_t, int64_t) {
    std::abort();
}
void multiply(float*, int64_t, const float*, const float*, int64_t, int64_t, int64_t, bool, const float*) {
    std::abort();
}

}  // namespace plimsoll::cpu::avx512
