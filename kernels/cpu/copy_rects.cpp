#include <algorithm>
#include <cstring>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vector_math.h"

namespace plimsoll::cpu {
namespace {

// Bytes [begin, end) of a rectangle's, counted row by row.
void copy_part(const CopyRect& rect, int64_t begin, int64_t end) {
    for (int64_t row = begin / rect.width; begin < end; ++row) {
        const int64_t column = begin - row * rect.width, count = std::min(rect.width - column, end - begin);
        std::memcpy(static_cast<char*>(rect.to) + row * rect.to_pitch + column,
                    static_cast<const char*>(rect.from) + row * rect.from_pitch + column, static_cast<size_t>(count));
        begin += count;
    }
}

}  // namespace

// Every thread gets an equal share of the bytes, wherever rectangles begin and end.
void copy_rects(std::span<const CopyRect> rects, const Exec& exec) {
    int64_t total = 0;
    for (const CopyRect& rect : rects) total += rect.width * rect.height;
#pragma omp parallel for num_threads(exec.threads) schedule(static) if (worth_threads(total / 4))
    for (int64_t part = 0; part < exec.threads; ++part) {
        const int64_t begin = total * part / exec.threads, end = total * (part + 1) / exec.threads;
        int64_t at = 0;  // of the rectangle's first byte among all
        for (const CopyRect& rect : rects) {
            const int64_t bytes = rect.width * rect.height;
            const int64_t first = std::max<int64_t>(begin - at, 0), last = std::min(end - at, bytes);
            if (first < last) copy_part(rect, first, last);
            at += bytes;
        }
    }
}

}  // namespace plimsoll::cpu
