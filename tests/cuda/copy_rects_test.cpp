#include "support/copy_rects.h"

#include "kernels/memory.h"
#include "support/cuda_test.h"

namespace plimsoll {
namespace {

class DeviceBytes {
  public:
    explicit DeviceBytes(const std::vector<unsigned char>& values) : size_(values.size()), memory_(bytes()) {
        enqueue_copy_bytes(data(), values.data(), bytes(), on_gpu());
        wait_for(on_gpu());
    }
    void* data() const { return memory_.data(); }
    std::vector<unsigned char> values() const {
        std::vector<unsigned char> out(size_);
        enqueue_copy_bytes(out.data(), data(), bytes(), on_gpu());
        wait_for(on_gpu());
        return out;
    }

  private:
    int64_t bytes() const { return static_cast<int64_t>(size_); }

    size_t size_;
    cuda::DeviceMemory memory_;
};

// The list of rectangles is gone before a late stream gets to them.
TEST(CudaCopyRects, CopyWhatTheySayAndNothingElse) {
    for (const bool late : {false, true}) {
        const RectangleField field;
        const DeviceBytes from(field.from), to(field.to);
        set_late_streams(late);
        copy_rects(field.rects(from.data(), to.data()), on_gpu());
        EXPECT_EQ(to.values(), field.expected());
        set_late_streams(false);
    }
    for (const std::string& report : device_reports()) ADD_FAILURE() << report;
}

}  // namespace
}  // namespace plimsoll
