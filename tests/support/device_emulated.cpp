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

std::unique_ptr<cuda::Context> context_like(int architecture, int multiprocessors) {
    simt::HostState& host = simt::host_state();
    const simt::HostState before = host;
    host.major = architecture / 10, host.minor = architecture % 10, host.multiprocessors = multiprocessors;
    auto context = std::make_unique<cuda::Context>();
    host = before;
    return context;
}

cuda::Context& test_context() {
    static cuda::Context context;
    return context;
}

}  // namespace plimsoll
