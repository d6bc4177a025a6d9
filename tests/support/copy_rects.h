// Rectangles of many sizes, side by side in two fields of bytes.
#pragma once

#include <vector>

#include "kernels/memory.h"

namespace plimsoll {

struct RectangleField {
    struct Place {
        int64_t to, to_pitch, from, from_pitch, width, height;
    };
    std::vector<unsigned char> from, to;
    std::vector<Place> places;

    RectangleField() {
        int64_t to_end = 3, from_end = 1;
        const auto add = [&](int64_t width, int64_t height, int64_t to_gap, int64_t from_gap) {
            places.push_back({to_end, width + to_gap, from_end, width + from_gap, width, height});
            to_end += (width + to_gap) * height + 5, from_end += (width + from_gap) * height;
        };
        add(1, 1, 0, 0), add(7, 3, 2, 0), add(64, 100, 0, 64), add(256, 40, 128, 0), add(1000, 1, 0, 0);
        add(3, 0, 0, 0), add(96, 300, 0, 0), add(33, 70, 1, 31), add(40000, 2, 0, 7);
        places[4].to_pitch = places[4].from_pitch = 0;  // one row: no pitch is looked at
        from.resize(static_cast<size_t>(from_end)), to.assign(static_cast<size_t>(to_end), 0xee);
        for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<unsigned char>(i * 37 + i / 256);
    }
    // In memory that has the contents of `from` and `to`.
    std::vector<CopyRect> rects(const void* from_here, void* to_there) const {
        std::vector<CopyRect> all;
        for (const Place& p : places)
            all.push_back({.to = static_cast<char*>(to_there) + p.to,
                           .to_pitch = p.to_pitch,
                           .from = static_cast<const char*>(from_here) + p.from,
                           .from_pitch = p.from_pitch,
                           .width = p.width,
                           .height = p.height});
        return all;
    }
    std::vector<unsigned char> expected() const {
        std::vector<unsigned char> all(to.size(), 0xee);
        for (const Place& p : places)
            for (int64_t row = 0; row < p.height; ++row)
                for (int64_t i = 0; i < p.width; ++i)
                    all[static_cast<size_t>(p.to + row * p.to_pitch + i)] =
                        from[static_cast<size_t>(p.from + row * p.from_pitch + i)];
        return all;
    }
};

}  // namespace plimsoll
