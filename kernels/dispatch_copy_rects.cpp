// Rectangles are checked here, at the door; the copies trust them.
#include <algorithm>

#include "kernels/dispatch.h"
#include "kernels/memory.h"

namespace plimsoll {

void copy_rects(std::span<const CopyRect> rects, const Exec& exec) {
    check_device(exec, "copy_rects");
    for (size_t i = 0; i < rects.size(); ++i) {
        const CopyRect& r = rects[i];
        check(r.width >= 0 && r.height >= 0 && (r.height <= 1 || std::min(r.to_pitch, r.from_pitch) >= r.width),
              "copy_rects: rectangle {} has {} rows of {} bytes, {} and {} bytes apart", i, r.height, r.width,
              r.to_pitch, r.from_pitch);
        check(r.width * r.height == 0 || (r.to && r.from), "copy_rects: rectangle {} lies nowhere", i);
    }
    PLIMSOLL_RUN(exec, copy_rects(rects, exec));
}

}  // namespace plimsoll
