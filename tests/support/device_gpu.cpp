#include "support/cuda_test.h"

namespace plimsoll {

std::vector<std::string> device_reports() {
    return {};
}
void set_schedule(int /*seed*/) {}
void set_late_streams(bool /*late*/) {}

cuda::Context& test_context() {
    static cuda::Context context;
    return context;
}

}  // namespace plimsoll
