// Which keys a tile of queries sees, and which queries a tile of keys: made on the device, for attention_tile.cuh.
#include <algorithm>

#include "kernels/cuda/attention_tile.cuh"

namespace plimsoll::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTileWords = sizeof(QueryTile) / sizeof(int32_t);
constexpr int kTaskWords = sizeof(DeviceTask) / sizeof(int32_t);
static_assert(sizeof(QueryTile) == sizeof(KeyTile));
// So that a difference of two rows or positions, and a window before it, is an int.
constexpr int64_t kMostRows = int64_t{1} << 29;

struct DeviceRange {
    int32_t row, prefix, begin, end;  // as in KeyRange, without a prefix if there is no gap behind it
    int32_t first_task, last_task;
    int32_t first_tile;  // of keys
};
constexpr int kRangeWords = sizeof(DeviceRange) / sizeof(int32_t);

// The last of ascending values that is at most `value`; the first is.
template <class At>
PLIMSOLL_DEVICE int find_last(int count, int value, At&& at) {
    int low = 0, high = count;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        (at(middle) <= value ? low : high) = middle;
    }
    return low;
}

PLIMSOLL_DEVICE int lesser(int a, int b) {
    return a < b ? a : b;
}

// A thread per row, the first row of a tile makes the tile. All rows are one task, masked by their documents.
__global__ void __launch_bounds__(kThreads)
    document_tables_kernel(QueryTile* query_tiles, KeyTile* key_tiles, DeviceTask* all, int32_t* first, int32_t* end,
                           const int32_t* cu_seqlens, int documents, int32_t N) {
    const int32_t n = blockIdx.x * kThreads + threadIdx.x;
    if (n >= N) return;
    const auto document_of = [&](int row) {
        return find_last(documents, row, [&](int document) { return cu_seqlens[document]; });
    };
    const int document = document_of(n);
    first[n] = cu_seqlens[document], end[n] = cu_seqlens[document + 1];
    if (n % kTileRows) return;
    const int behind = lesser(n + kTileRows, N), begin = cu_seqlens[document];
    const int last = document_of(behind - 1);
    query_tiles[n / kTileRows] = {n, behind, begin, cu_seqlens[last], 0, 0, 0, cu_seqlens[last + 1]};
    key_tiles[n / kTileRows] = {n, behind, n, 0, 1, 0, {}};
    if (n == 0) *all = {0, N, 0, 0, 0};
}

// A thread per tile, of queries, then of keys.
__global__ void __launch_bounds__(kThreads)
    task_tables_kernel(QueryTile* query_tiles, KeyTile* key_tiles, int query_tile_count, int key_tile_count,
                       const DeviceTask* tasks, int task_count, const DeviceRange* ranges, int range_count) {
    int tile = blockIdx.x * kThreads + threadIdx.x;
    if (tile < query_tile_count) {
        const DeviceTask task = tasks[find_last(task_count, tile, [&](int i) { return tasks[i].first_tile; })];
        const DeviceRange keys = ranges[task.keys];
        const int row = task.row + (tile - task.first_tile) * kTileRows, first = task.row - task.position;
        query_tiles[tile] = {row,
                             lesser(row + kTileRows, task.row + task.count),
                             first,
                             first,
                             keys.row - first,
                             first + keys.prefix,
                             keys.begin - keys.prefix,
                             first + keys.end};
        return;
    }
    tile -= query_tile_count;
    if (tile >= key_tile_count) return;
    const DeviceRange keys = ranges[find_last(range_count, tile, [&](int i) { return ranges[i].first_tile; })];
    const int offset = (tile - keys.first_tile) * kTileRows, rows = keys.prefix + keys.end - keys.begin;
    key_tiles[tile] = {keys.row + offset,
                       keys.row + lesser(offset + kTileRows, rows),
                       offset < keys.prefix ? offset : offset - keys.prefix + keys.begin,
                       keys.first_task,
                       keys.last_task,
                       keys.end,
                       {}};
}

constexpr int kMostWords = 960;  // a kernel's arguments have 4 KiB
struct Words {
    int32_t at[kMostWords];
};

__global__ void __launch_bounds__(kThreads)
    store_words_kernel(int32_t* to, const __grid_constant__ Words words, int count) {
    for (int i = threadIdx.x; i < count; i += kThreads) to[i] = words.at[i];
}

// Writes small tables into device memory, as arguments of kernels: in the order of the stream, without waiting, and
// without memory that must stay as it is.
class TableWriter {
  public:
    TableWriter(int32_t* to, cudaStream_t stream) : to_(to), stream_(stream) {}
    template <class Row>
    void add(const Row& row) {
        constexpr int kWords = sizeof(Row) / sizeof(int32_t);
        if (count_ + kWords > kMostWords) send();
        std::copy_n(reinterpret_cast<const int32_t*>(&row), kWords, words_.at + count_);
        count_ += kWords;
    }
    void send() {
        if (count_ == 0) return;
        PLIMSOLL_LAUNCH(store_words_kernel, dim3(1), dim3(kThreads), 0, stream_, to_, words_, count_);
        to_ += count_, count_ = 0;
    }

  private:
    int32_t* to_;
    cudaStream_t stream_;
    Words words_;
    int count_ = 0;
};

int64_t tiles_of(int64_t rows) {
    return (rows + kTileRows - 1) / kTileRows;
}

struct TileCounts {
    int64_t queries = 0, keys = 0;
    explicit TileCounts(const AttentionTasks& tasks) {
        for (const AttentionTask& task : tasks.tasks) queries += tiles_of(task.count);
        for (const KeyRange& range : tasks.keys) keys += tiles_of(range.rows());
    }
};

void check_rows(int64_t rows) {
    if (rows >= kMostRows) fail_input("attention on CUDA: {} tokens at once, at most {}", rows, kMostRows - 1);
}

}  // namespace

int64_t table_words(int64_t N) {
    return 2 * kTileWords * tiles_of(N) + kTaskWords + 2 * N;
}

int64_t table_words(const AttentionTasks& tasks) {
    const TileCounts tiles(tasks);
    return kTileWords * (tiles.queries + tiles.keys) + kTaskWords * static_cast<int64_t>(tasks.tasks.size()) +
           kRangeWords * static_cast<int64_t>(tasks.keys.size());
}

AttentionTables make_tables(int32_t* memory, std::span<const int32_t> cu_seqlens, int64_t N, const Exec& exec) {
    check_rows(N);
    const int64_t tiles = tiles_of(N);
    auto* const query_tiles = reinterpret_cast<QueryTile*>(memory);
    auto* const key_tiles = reinterpret_cast<KeyTile*>(query_tiles + tiles);
    auto* const all = reinterpret_cast<DeviceTask*>(key_tiles + tiles);
    auto* const first = reinterpret_cast<int32_t*>(all + 1);
    PLIMSOLL_LAUNCH(document_tables_kernel, dim3(blocks_for(N, kThreads)), dim3(kThreads), 0, exec.cuda->stream(),
                    query_tiles, key_tiles, all, first, first + N, cu_seqlens.data(),
                    static_cast<int>(cu_seqlens.size()) - 1, static_cast<int32_t>(N));
    launch_check("attention tables");
    return {query_tiles, key_tiles, all, first, first + N, tiles, tiles};
}

AttentionTables make_tables(int32_t* memory, const AttentionTasks& tasks, int64_t N, const Exec& exec) {
    check_rows(N);
    const TileCounts tiles(tasks);
    auto* const query_tiles = reinterpret_cast<QueryTile*>(memory);
    auto* const key_tiles = reinterpret_cast<KeyTile*>(query_tiles + tiles.queries);
    auto* const device_tasks = reinterpret_cast<DeviceTask*>(key_tiles + tiles.keys);
    auto* const ranges = reinterpret_cast<DeviceRange*>(device_tasks + tasks.tasks.size());
    const auto narrow = [](int64_t value) { return static_cast<int32_t>(value); };
    TableWriter writer(reinterpret_cast<int32_t*>(device_tasks), exec.cuda->stream());
    int64_t tile = 0;
    for (const AttentionTask& task : tasks.tasks) {
        writer.add(
            DeviceTask{narrow(task.row), narrow(task.count), narrow(task.position), narrow(task.keys), narrow(tile)});
        tile += tiles_of(task.count);
    }
    tile = 0;
    auto task = tasks.tasks.begin();
    for (const KeyRange& range : tasks.keys) {
        check_rows(std::max(range.row + range.rows(), range.end));
        const auto first = task;
        while (task != tasks.tasks.end() && task->keys == &range - tasks.keys.data()) ++task;
        const bool gap = range.prefix < range.begin;
        writer.add(DeviceRange{narrow(range.row), narrow(gap ? range.prefix : 0), narrow(gap ? range.begin : 0),
                               narrow(range.end), narrow(first - tasks.tasks.begin()),
                               narrow(task - tasks.tasks.begin()), narrow(tile)});
        tile += tiles_of(range.rows());
    }
    writer.send();
    if (tiles.queries + tiles.keys > 0)
        PLIMSOLL_LAUNCH(task_tables_kernel, dim3(blocks_for(tiles.queries + tiles.keys, kThreads)), dim3(kThreads), 0,
                        exec.cuda->stream(), query_tiles, key_tiles, narrow(tiles.queries), narrow(tiles.keys),
                        device_tasks, narrow(static_cast<int64_t>(tasks.tasks.size())), ranges,
                        narrow(static_cast<int64_t>(tasks.keys.size())));
    launch_check("attention tables");
    return {query_tiles, key_tiles, device_tasks, nullptr, nullptr, tiles.queries, tiles.keys};
}

DeviceMask make_mask(const AttentionSpec& spec, int64_t NH) {
    static_assert(MaskRule<int32_t>::kEndless >= kMostRows - 1);
    const MaskRule<int32_t> rule(spec);
    return {.rule = rule,
            .step_inverse = std::numeric_limits<uint64_t>::max() / static_cast<uint64_t>(rule.step) + 1,
            .patterned = rule.patterned(),
            .window = rule.near < MaskRule<int32_t>::kEndless ? rule.near : 0,
            .pinned = rule.pinned,
            .scale = static_cast<float>(spec.scale),
            .score_bias = static_cast<float>(spec.score_bias),
            .bias_per_row = spec.bias_kind == ScoreBias::kPerRow,
            .alibi = spec.alibi,
            .NH = static_cast<int32_t>(NH)};
}

DeviceKeyBias make_key_bias(const Tensor& key_bias, const AttentionSpec& spec, int64_t NH) {
    check(!key_bias || spec.scale != 0, "attention on CUDA: biases of keys want a scale other than 0");
    return {optional<float>(key_bias), static_cast<int32_t>(NH), static_cast<float>(1 / spec.scale)};
}

void check_attention_layout(const Tensor& t, const char* name, DType dtype) {
    if (t.dtype != dtype)
        fail_input("attention on CUDA computes in bf16, {} is {}; set run.precision = \"bf16\"", name,
                   name_of(t.dtype));
    check(reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.row_stride % 8 == 0,
          "attention on CUDA: {} must be 16-byte aligned with a row stride that is a multiple of 8, got {}", name,
          t.row_stride);
}

}  // namespace plimsoll::cuda
