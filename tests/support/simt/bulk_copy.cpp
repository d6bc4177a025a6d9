// Bulk copies: tensor maps (TMA) and rows of bytes. A load lands at a random moment after its issue; a store reads its
// source as late as it may, when its group is waited for, and its bytes are in global memory later still.
#include <algorithm>
#include <cstring>
#include <functional>
#include <utility>

#include "simt/async_proxy.h"
#include "simt/hopper.h"
#include "simt/mbarrier.h"

namespace simt {
namespace {

// One row of a box: consecutive bytes of shared memory before swizzling.
struct BoxRow {
    uint8_t* global;                    // of its first element; null where the whole row is outside of the tensor
    uint32_t shared;                    // offset
    uint32_t bytes, skipped, in_range;  // the bytes skipped .. skipped + in_range lie in the tensor
};

struct Store {
    unsigned thread;
    TensorMap map;
    const void* from;
    std::vector<BoxRow> rows;
    std::vector<uint8_t> staged;  // what was read
    const void* site;
};

struct StoreGroups {
    std::vector<Store> open;
    std::vector<std::vector<Store>> reading, writing;  // groups, oldest first
};

struct Engine {
    std::vector<std::function<void()>> landing;  // loads under way
    std::map<unsigned, StoreGroups> stores;      // by thread
    unsigned eagerness = 0;                      // how soon loads land, drawn for each block
};

Engine& engine() {
    static Engine value;
    return value;
}

unsigned box_bytes(const TensorMap& map) {
    return 2 * map.box[0] * map.box[1] * map.box[2] * map.box[3];
}

std::vector<BoxRow> rows_of(const TensorMap& map, uint32_t shared, const int (&at)[4]) {
    std::vector<BoxRow> rows;
    const uint32_t bytes = 2 * map.box[0];
    const auto inside = [&](int dimension, int64_t i) {
        return i >= 0 && i < static_cast<int64_t>(map.size[dimension]);
    };
    const int64_t begin = std::clamp<int64_t>(-int64_t{at[0]}, 0, map.box[0]);
    const int64_t end =
        std::clamp<int64_t>(static_cast<int64_t>(map.size[0]) - at[0], begin, static_cast<int64_t>(map.box[0]));
    for (uint32_t z = 0; z < map.box[3]; ++z)
        for (uint32_t y = 0; y < map.box[2]; ++y)
            for (uint32_t x = 0; x < map.box[1]; ++x, shared += bytes) {
                const int64_t i = int64_t{at[1]} + x, j = int64_t{at[2]} + y, k = int64_t{at[3]} + z;
                BoxRow row{nullptr, shared, bytes, 0, 0};
                if (inside(1, i) && inside(2, j) && inside(3, k) && end > begin) {
                    row.global = static_cast<uint8_t*>(map.base) + 2 * at[0] + i * static_cast<int64_t>(map.stride[1]) +
                                 j * static_cast<int64_t>(map.stride[2]) + k * static_cast<int64_t>(map.stride[3]);
                    row.skipped = static_cast<uint32_t>(2 * begin);
                    row.in_range = static_cast<uint32_t>(2 * (end - begin));
                }
                rows.push_back(row);
            }
    return rows;
}

void check_box(const TensorMap& map, const void* shared, const char* what) {
    Block& b = block();
    if (shared_offset(shared) % 128) b.fail(std::string(what) + ": a shared address that is not 128-byte aligned");
    if (map.swizzle_bytes && 2 * map.box[0] > map.swizzle_bytes)
        b.fail(std::string(what) + ": rows of the box are longer than what is swizzled");
    if (shared_offset(shared) + box_bytes(map) > b.dynamic_bytes())
        b.fail(std::string(what) + ": the box ends outside of shared memory");
}

uint8_t* shared_at(uint32_t offset) {
    return block().shared_begin() + offset;
}

void start_load(void* to, unsigned bytes, void* barrier_address, const void* site, std::function<void()> land) {
    Mbarrier& barrier = find_mbarrier(barrier_address, "a bulk copy");
    detector::copy_writes(to, bytes, detector::barrier_actor(barrier.slot), barrier.phase + 1, site);
    std::memset(to, 0xff, bytes);
    engine().landing.push_back([land = std::move(land), &barrier, bytes] {
        land();
        complete_bytes(barrier, bytes);
    });
    block().yield();
}

void read_source(Store& store) {
    store.staged.reserve(box_bytes(store.map));
    for (const BoxRow& row : store.rows)
        for (uint32_t i = 0; i < row.bytes; i += 2) {
            const uint8_t* from = shared_at(swizzled(row.shared + i, store.map.swizzle_bytes));
            store.staged.insert(store.staged.end(), from, from + 2);
        }
    detector::copy_read_ends(store.from, box_bytes(store.map), store.site);
}

void write_target(const Store& store) {
    const uint8_t* from = store.staged.data();
    for (const BoxRow& row : store.rows) {
        if (row.in_range) {
            note_access(row.global + row.skipped, row.in_range, Access::kCopyArrived, store.site);
            std::memcpy(row.global + row.skipped, from + row.skipped, row.in_range);
        }
        from += row.bytes;
    }
}

}  // namespace

uint32_t shared_offset(const void* address) {
    const auto offset = static_cast<const uint8_t*>(address) - block().shared_begin();
    if (offset < 0 || static_cast<size_t>(offset) >= 2 * kSharedBytes) block().fail("an address not in shared memory");
    return static_cast<uint32_t>(offset);
}

uint32_t swizzled(uint32_t offset, uint32_t swizzle_bytes) {
    const uint32_t units = swizzle_bytes / 16;
    return units < 2 ? offset : offset ^ (offset >> 7 & (units - 1)) << 4;
}

void tma_load(void* to, const TensorMap& map, void* barrier, const int (&at)[4]) {
    const void* site = __builtin_return_address(0);
    const EnterEmulator enter;
    check_box(map, to, "cp.async.bulk.tensor");
    std::vector<BoxRow> rows = rows_of(map, shared_offset(to), at);
    for (const BoxRow& row : rows)
        if (row.in_range) note_access(row.global + row.skipped, row.in_range, Access::kRead, site);
    start_load(to, box_bytes(map), barrier, site, [rows = std::move(rows), swizzle = map.swizzle_bytes] {
        for (const BoxRow& row : rows)
            for (uint32_t i = 0; i < row.bytes; i += 2) {
                uint8_t* place = shared_at(swizzled(row.shared + i, swizzle));
                if (i >= row.skipped && i < row.skipped + row.in_range)
                    std::memcpy(place, row.global + i, 2);
                else
                    std::memset(place, 0, 2);
            }
    });
}

void bulk_load(void* to, const void* from, unsigned bytes, void* barrier) {
    const void* site = __builtin_return_address(0);
    const EnterEmulator enter;
    if (reinterpret_cast<uintptr_t>(from) % 16 || shared_offset(to) % 16 || bytes % 16)
        block().fail("cp.async.bulk: addresses and sizes must be multiples of 16 bytes");
    if (shared_offset(to) + bytes > block().dynamic_bytes())
        block().fail("cp.async.bulk: the copy ends outside of shared memory");
    note_access(from, bytes, Access::kRead, site);
    start_load(to, bytes, barrier, site, [to, from, bytes] { std::memcpy(to, from, bytes); });
}

void tma_store(const TensorMap& map, const void* from, const int (&at)[4]) {
    const void* site = __builtin_return_address(0);
    const EnterEmulator enter;
    check_box(map, from, "cp.async.bulk.tensor (store)");
    const unsigned thread = block().current().index;
    detector::async_read_begins(from, box_bytes(map), "bulk store", site);
    Store store{thread, map, from, rows_of(map, shared_offset(from), at), {}, site};
    for (const BoxRow& row : store.rows)
        if (row.in_range) note_access(row.global + row.skipped, row.in_range, Access::kCopyIssued, site);
    engine().stores[thread].open.push_back(std::move(store));
}

void bulk_commit() {
    const EnterEmulator enter;
    StoreGroups& groups = engine().stores[block().current().index];
    groups.reading.push_back(std::exchange(groups.open, {}));
}

void bulk_wait(unsigned groups_left, bool read_only) {
    const EnterEmulator enter;
    StoreGroups& groups = engine().stores[block().current().index];
    const auto read_oldest = [&] {
        for (Store& store : groups.reading.front()) read_source(store);
        groups.writing.push_back(std::move(groups.reading.front()));
        groups.reading.erase(groups.reading.begin());
    };
    if (read_only) {
        while (groups.reading.size() > groups_left) read_oldest();
        return;
    }
    while (groups.writing.size() + groups.reading.size() > groups_left) {
        if (groups.writing.empty()) read_oldest();
        for (const Store& store : groups.writing.front()) write_target(store);
        groups.writing.erase(groups.writing.begin());
    }
}

void fence_proxy_async() {
    const EnterEmulator enter;
    detector::fence_async_proxy();
}

bool land_copies(Block& b, bool idle) {
    auto& landing = engine().landing;
    bool landed = false;
    // At once; at about every second or sixteenth switch; or only when nothing else can happen.
    constexpr unsigned kOneIn[] = {1, 2, 16, 0};
    while (!landing.empty()) {
        const unsigned one_in = kOneIn[engine().eagerness];
        if (!idle && (one_in == 0 || b.random() % one_in)) break;
        const size_t which = b.random() % landing.size();
        const std::function<void()> land = std::move(landing[which]);
        landing.erase(landing.begin() + static_cast<std::ptrdiff_t>(which));
        land();
        landed = true;
        if (idle) break;
    }
    return landed;
}

void begin_copies(Block& b) {
    engine() = {};
    engine().eagerness = b.random() % 4;
    mbarriers().clear();
}

// A thread's stores must have been read; they are written at the latest now.
void end_stores(const Thread& thread) {
    const auto found = engine().stores.find(thread.index);
    if (found == engine().stores.end()) return;
    StoreGroups& groups = found->second;
    if (!groups.open.empty() || !groups.reading.empty())
        block().fail("exits with bulk stores whose reads it never waited for");
    for (const auto& group : groups.writing)
        for (const Store& store : group) write_target(store);
    engine().stores.erase(found);
}

void end_copies(Block& b) {
    if (!engine().landing.empty()) b.fail("the block ends with bulk copies under way");
    for (const auto& [offset, barrier] : mbarriers())
        if (barrier.bytes)
            b.fail("the mbarrier at offset " + std::to_string(offset) + " of shared memory ends " +
                   std::to_string(barrier.bytes) + " bytes from what it was told to expect");
}

}  // namespace simt
