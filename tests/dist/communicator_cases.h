// What every communicator must do, whatever carries its bytes and wherever its tensors lie: run by threads in one
// process, by ranks under mpirun, and by both with tensors on a GPU.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "dist/communicator.h"
#include "kernels/random.h"

namespace plimsoll {

// A value of (rank, index) whose sums depend on their order.
template <class T>
T rough(int rank, size_t i) {
    const RandomStream stream(11, "dist", "", static_cast<uint64_t>(rank));
    return static_cast<T>(std::exp(12 * (stream.uniform(i) - 0.5)) * (stream.uniform(i + 1'000'000) < 0.5 ? -1 : 1));
}

template <class T>
std::vector<T> rough_vector(int rank, size_t count) {
    std::vector<T> values(count);
    for (size_t i = 0; i < count; ++i) values[i] = rough<T>(rank, i);
    return values;
}

// ((0 + 1) + 2) + ...: what a sum over ranks is.
template <class T>
T sum_over_ranks(int ranks, size_t i) {
    T sum = rough<T>(0, i);
    for (int r = 1; r < ranks; ++r) sum += rough<T>(r, i);
    return sum;
}

template <class T>
Tensor flat(std::vector<T>& values) {
    return Tensor(values.data(), kDTypeOf<T>, {static_cast<int64_t>(values.size())});
}

// Values where the tensors of a communicator lie: in host memory, or on the GPU it is bound to. There they are on their
// way when an operation is called, as they are when a kernel computes them.
template <class T>
class Values {
  public:
    Values(const Communicator& world, std::vector<T> values) : exec_(world.exec()), host_(std::move(values)) {
        if (exec_.device == Device::kCpu) return;
        device_ = allocate_memory(exec_.device, flat(host_).bytes(), "values");
        pinned_ = allocate_pinned(flat(host_).bytes() + 1, "values");
        std::memcpy(pinned_.get(), host_.data(), static_cast<size_t>(flat(host_).bytes()));
        enqueue_copy(tensor(), Tensor(pinned_.get(), kDTypeOf<T>, flat(host_).shape), exec_);
    }
    ~Values() { wait_for(exec_); }
    Values(Values&&) = default;

    Tensor tensor() {
        return device_ ? Tensor(device_.get(), kDTypeOf<T>, flat(host_).shape, exec_.device) : flat(host_);
    }
    // As they are now.
    const std::vector<T>& read() {
        if (device_) copy_tensor(flat(host_), tensor(), exec_);
        return host_;
    }

  private:
    Exec exec_;
    std::vector<T> host_;
    Memory device_;
    PinnedMemory pinned_;
};

// Shards whose sizes differ, one of them empty where there are three or more.
inline std::vector<ElementRange> uneven_shards(int ranks, int64_t count) {
    std::vector<ElementRange> shards = split_range({3, count - 5}, ranks, 4);
    if (ranks > 2) shards[1] = {shards[0].end, shards[0].end}, shards[2].begin = shards[0].end;
    return shards;
}

template <class T>
void sums_are_made_in_rank_order(Communicator& world) {
    constexpr int64_t kCount = 1003;
    const std::vector<ElementRange> shards = uneven_shards(world.size(), kCount);
    const std::vector<T> before = rough_vector<T>(world.rank(), kCount);
    Values<T> data(world, before);
    Work work = world.reduce_scatter(data.tensor(), shards);
    EXPECT_TRUE(work.pending());
    work.wait();
    std::vector<T> after = data.read();
    const ElementRange own = shards[static_cast<size_t>(world.rank())];
    for (int64_t i = 0; i < kCount; ++i) {
        const auto at = static_cast<size_t>(i);
        const bool mine = own.begin <= i && i < own.end;
        EXPECT_EQ(after[at], mine ? sum_over_ranks<T>(world.size(), at) : before[at]) << "element " << i;
    }
    world.all_gather(data.tensor(), shards).wait();
    after = data.read();
    for (int64_t i = 3; i < kCount - 5; ++i) {
        const auto at = static_cast<size_t>(i);
        EXPECT_EQ(after[at], sum_over_ranks<T>(world.size(), at)) << "element " << i;
    }
    EXPECT_EQ(after[0], before[0]);
    EXPECT_EQ(after[kCount - 1], before[kCount - 1]);
}

// Several sums under way, and small things of the host among them: each kind in its own order.
inline void sums_and_small_things_do_not_mix(Communicator& world) {
    constexpr int64_t kCount = 200;
    const std::vector<ElementRange> shards = split_range({0, kCount}, world.size(), 1);
    std::vector<Values<float>> data;
    std::vector<Work> works;
    for (int i = 0; i < 3; ++i) data.emplace_back(world, rough_vector<float>(world.rank(), kCount));
    for (Values<float>& values : data) {
        works.push_back(world.reduce_scatter(values.tensor(), shards));
        std::array<double, 1> one{1};
        world.sum(one);
        EXPECT_EQ(one[0], world.size());
    }
    for (size_t w = works.size(); w-- > 0;) works[w].wait();
    for (Values<float>& values : data) world.all_gather(values.tensor(), shards).wait();
    for (Values<float>& values : data)
        for (size_t i = 0; i < kCount; ++i) ASSERT_EQ(values.read()[i], sum_over_ranks<float>(world.size(), i)) << i;
}

// Sizes from a formula both sides know, a third of them zero; then everything goes back.
inline void parts_go_where_they_belong(Communicator& world) {
    const auto ranks = static_cast<size_t>(world.size()), me = static_cast<size_t>(world.rank());
    const auto size = [](size_t from, size_t to) {
        return (from + 2 * to) % 3 == 0 ? int64_t{0} : static_cast<int64_t>(100 + 37 * from + 11 * to);
    };
    const auto byte = [](size_t from, size_t to, int64_t i) {
        return static_cast<std::byte>((from * 31 + to * 17 + static_cast<size_t>(i)) & 0xff);
    };
    std::vector<int64_t> out(ranks), out_at(ranks), in(ranks), in_at(ranks);
    int64_t out_all = 0, in_all = 0;
    for (size_t r = 0; r < ranks; ++r) {
        out[r] = size(me, r), out_at[r] = out_all, out_all += out[r];
        in[r] = size(r, me), in_at[r] = in_all, in_all += in[r];
    }
    std::vector<std::byte> sent(static_cast<size_t>(out_all)), received(static_cast<size_t>(in_all)), back(sent.size());
    for (size_t r = 0; r < ranks; ++r)
        for (int64_t i = 0; i < out[r]; ++i) sent[static_cast<size_t>(out_at[r] + i)] = byte(me, r, i);
    world.all_to_all_v(sent, out, out_at, received, in, in_at).wait();
    for (size_t r = 0; r < ranks; ++r)
        for (int64_t i = 0; i < in[r]; ++i)
            ASSERT_EQ(received[static_cast<size_t>(in_at[r] + i)], byte(r, me, i)) << "from " << r << " at " << i;
    world.all_to_all_v(received, in, in_at, back, out, out_at).wait();
    EXPECT_EQ(back, sent);
}

// The same for tensors.
inline void parts_of_tensors_go_where_they_belong(Communicator& world) {
    const auto ranks = static_cast<size_t>(world.size()), me = static_cast<size_t>(world.rank());
    const auto size = [](size_t from, size_t to) {
        return (from + to) % 3 == 0 ? size_t{0} : 10 + 7 * from + 3 * to;  // elements
    };
    const auto element = [](size_t from, size_t to, size_t i) {
        return static_cast<int32_t>(10000 * from + 1000 * to + i);
    };
    std::vector<int64_t> out(ranks), out_at(ranks), in(ranks), in_at(ranks);
    std::vector<int32_t> sent, expected;
    for (size_t r = 0; r < ranks; ++r) {
        out[r] = static_cast<int64_t>(4 * size(me, r)), out_at[r] = static_cast<int64_t>(4 * sent.size());
        in[r] = static_cast<int64_t>(4 * size(r, me)), in_at[r] = static_cast<int64_t>(4 * expected.size());
        for (size_t i = 0; i < size(me, r); ++i) sent.push_back(element(me, r, i));
        for (size_t i = 0; i < size(r, me); ++i) expected.push_back(element(r, me, i));
    }
    Values<int32_t> from(world, sent), to(world, std::vector<int32_t>(expected.size()));
    world.all_to_all_v(from.tensor(), out, out_at, to.tensor(), in, in_at).wait();
    EXPECT_EQ(to.read(), expected);
}

inline void small_things_arrive(Communicator& world) {
    for (int root = 0; root < world.size(); ++root) {
        std::array<int, 2> value{world.rank() == root ? 1000 + root : -1, root};
        world.broadcast(std::as_writable_bytes(std::span(value)), root);
        EXPECT_EQ(value[0], 1000 + root);
    }
    std::array<double, 3> values{rough<double>(world.rank(), 0), 1, -static_cast<double>(world.rank())};
    world.sum(values);
    EXPECT_EQ(values[0], sum_over_ranks<double>(world.size(), 0));
    EXPECT_EQ(values[1], world.size());
    const int32_t mine = 7 * world.rank();
    const std::vector<std::byte> all = world.gather(std::as_bytes(std::span(&mine, 1)));
    for (int r = 0; r < world.size(); ++r) {
        int32_t theirs = 0;
        std::memcpy(&theirs, all.data() + static_cast<size_t>(r) * sizeof theirs, sizeof theirs);
        EXPECT_EQ(theirs, 7 * r);
    }
    world.barrier();
}

// A ring: everybody sends before anybody receives, twice, so that order matters; works are waited for in reverse.
inline void messages_keep_their_order(Communicator& world) {
    const int n = world.size(), next = (world.rank() + 1) % n, previous = (world.rank() + n - 1) % n;
    std::array<std::vector<float>, 2> out{rough_vector<float>(world.rank(), 300), rough_vector<float>(next, 20)}, in;
    std::vector<Work> works;
    for (size_t m = 0; m < 2; ++m) {
        in[m].resize(out[m].size());
        if (n == 1) continue;  // a rank alone has nobody to send to without receiving at once
        works.push_back(world.send(std::as_bytes(std::span(out[m])), next));
        works.push_back(world.receive(std::as_writable_bytes(std::span(in[m])), previous));
    }
    for (size_t w = works.size(); w-- > 0;) works[w].wait();
    if (n == 1) return;
    EXPECT_EQ(in[0], rough_vector<float>(previous, 300));
    EXPECT_EQ(in[1], rough_vector<float>(world.rank(), 20));
}

// The same ring with tensors. Then one message, whose sender waits for something else first: it has left by then.
inline void tensors_keep_their_order(Communicator& world) {
    const int n = world.size(), next = (world.rank() + 1) % n, previous = (world.rank() + n - 1) % n;
    if (n == 1) return;
    Values<float> first(world, rough_vector<float>(world.rank(), 300)), second(world, rough_vector<float>(next, 20)),
        in_first(world, std::vector<float>(300)), in_second(world, std::vector<float>(20));
    std::vector<Work> works;
    works.push_back(world.send(first.tensor(), next));
    works.push_back(world.send(second.tensor(), next));
    works.push_back(world.receive(in_first.tensor(), previous));
    works.push_back(world.receive(in_second.tensor(), previous));
    for (size_t w = works.size(); w-- > 0;) works[w].wait();
    EXPECT_EQ(in_first.read(), rough_vector<float>(previous, 300));
    EXPECT_EQ(in_second.read(), rough_vector<float>(world.rank(), 20));
    Work one;
    if (world.rank() == 0) one = world.send(second.tensor(), 1);
    if (world.rank() == 1) world.receive(in_second.tensor(), 0).wait();
    world.barrier();
    one.wait();
    if (world.rank() == 1) EXPECT_EQ(in_second.read(), rough_vector<float>(1, 20));
}

// Groups by parity, ordered backwards, used at the same time as the world, and split again.
inline void groups_are_worlds_of_their_own(Communicator& world) {
    const int color = world.rank() % 2;
    Communicator group = world.split(color, -world.rank(), color ? "odd" : "even");
    const int members = (world.size() + 1 - color) / 2;
    EXPECT_EQ(group.size(), members);
    EXPECT_EQ(group.rank(), members - 1 - world.rank() / 2);
    Values<double> here(group, rough_vector<double>(group.rank(), 64)),
        there(world, rough_vector<double>(world.rank(), 64));
    const std::vector<ElementRange> parts = split_range({0, 64}, group.size(), 1),
                                    all = split_range({0, 64}, world.size(), 1);
    Work in_group = group.reduce_scatter(here.tensor(), parts), in_world = world.reduce_scatter(there.tensor(), all);
    in_world.wait(), in_group.wait();
    const auto mine = static_cast<size_t>(parts[static_cast<size_t>(group.rank())].begin);
    if (parts[static_cast<size_t>(group.rank())].size() > 0)
        EXPECT_EQ(here.read()[mine], sum_over_ranks<double>(group.size(), mine));
    Communicator alone = group.split(group.rank(), 0, "alone");
    EXPECT_EQ(alone.size(), 1);
    small_things_arrive(alone);
    small_things_arrive(group);
}

inline void what_was_sent_is_counted(Communicator& world) {
    const CommStats before = world.stats(CommKind::kReduceScatter);
    Values<float> data(world, std::vector<float>(100));
    world.reduce_scatter(data.tensor(), split_range({0, 100}, world.size(), 1)).wait();
    const CommStats after = world.stats(CommKind::kReduceScatter);
    EXPECT_EQ(after.calls - before.calls, 1);
    const ElementRange own = split_range({0, 100}, world.size(), 1)[static_cast<size_t>(world.rank())];
    EXPECT_EQ(after.bytes - before.bytes, 4 * (100 - own.size()));
    EXPECT_GE(after.wait_seconds, before.wait_seconds);
}

struct CommunicatorCase {
    const char* name;
    void (*run)(Communicator& world);
};
inline void PrintTo(const CommunicatorCase& c, std::ostream* out) {
    *out << c.name;
}
inline constexpr CommunicatorCase kCommunicatorCases[] = {
    {"SumsInFp32AreMadeInRankOrder", sums_are_made_in_rank_order<float>},
    {"SumsInFp64AreMadeInRankOrder", sums_are_made_in_rank_order<double>},
    {"SumsAndSmallThingsDoNotMix", sums_and_small_things_do_not_mix},
    {"PartsGoWhereTheyBelong", parts_go_where_they_belong},
    {"PartsOfTensorsGoWhereTheyBelong", parts_of_tensors_go_where_they_belong},
    {"SmallThingsArrive", small_things_arrive},
    {"MessagesKeepTheirOrder", messages_keep_their_order},
    {"TensorsKeepTheirOrder", tensors_keep_their_order},
    {"GroupsAreWorldsOfTheirOwn", groups_are_worlds_of_their_own},
    {"WhatWasSentIsCounted", what_was_sent_is_counted},
};

}  // namespace plimsoll
