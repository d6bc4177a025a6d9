#include "simt/detector.h"
#include "simt/host_runtime.h"
#include "simt/machine.h"
#include "support/cuda_test.h"

namespace plimsoll {

std::vector<std::string> device_reports() {
    return simt::take_reports();
}
void set_schedule(int seed) {
    simt::options() = {.seed = static_cast<uint64_t>(seed)};
}
void set_late_streams(bool late) {
    simt::host_state().late = late;
}

cuda::Context& test_context() {
    static cuda::Context context;
    return context;
}

}  // namespace plimsoll
