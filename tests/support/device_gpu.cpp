#include "support/cuda_test.h"

namespace plimsoll {

std::vector<std::string> device_reports() {
    return {};
}
void set_schedule(int /*seed*/) {}
void set_late_streams(bool /*late*/) {}

std::unique_ptr<cuda::Context> context_like(int /*architecture*/, int /*multiprocessors*/) {
    return std::make_unique<cuda::Context>();
}

cuda::Context& test_context() {
    static cuda::Context context;
    return context;
}

}  // namespace plimsoll
