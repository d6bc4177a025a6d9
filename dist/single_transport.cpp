#include <cstring>

#include "dist/transport.h"
#include "kernels/error.h"

namespace plimsoll {
namespace {

class Done final : public Exchange {
  public:
    bool wait(std::chrono::nanoseconds /*timeout*/) override { return true; }
    std::vector<int> silent() const override { return {}; }
};

// A rank alone sends to itself only: every message is taken in the exchange that sends it.
class SingleTransport final : public Transport {
  public:
    int rank() const override { return 0; }
    int size() const override { return 1; }
    std::unique_ptr<Exchange> exchange(std::span<const SendTo> sends, std::span<const ReceiveFrom> receives) override {
        check(sends.size() == receives.size(), "a rank alone sends {} messages to itself and takes {}", sends.size(),
              receives.size());
        for (size_t i = 0; i < sends.size(); ++i) {
            check(sends[i].bytes.size() == receives[i].bytes.size(), "a message of {} bytes, {} were expected",
                  sends[i].bytes.size(), receives[i].bytes.size());
            std::memmove(receives[i].bytes.data(), sends[i].bytes.data(), sends[i].bytes.size());
        }
        return std::make_unique<Done>();
    }
    std::unique_ptr<Transport> split(int /*color*/, int /*key*/) override { return single_transport(); }
    void abort(const std::string& /*reason*/, ExitCode /*code*/) override {}
};

}  // namespace

std::unique_ptr<Transport> single_transport() {
    return std::make_unique<SingleTransport>();
}

}  // namespace plimsoll
