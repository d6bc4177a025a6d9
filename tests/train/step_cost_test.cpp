// What a step costs beside its arithmetic: nothing is allocated, and for ranks that a run of one process does not have
// nothing is sent, no op is added, no memory is taken.
#include <gtest/gtest.h>

#include <link.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>

#include "kernels/cpu/avx512_bf16/tiles.h"
#include "kernels/global_norm.h"
#include "kernels/matmul.h"
#include "kernels/trace.h"
#include "model/decoder.h"
#include "support/named_networks.h"
#include "support/quick_run.h"
#include "train/trainer.h"
#include "train_test_support.h"

namespace {

// Of all threads: by whoever is not in a library below, by what is behind products in fp32, by OpenMP, which keeps the
// memory of one team and makes another for a region of other threads or inside a region.
std::atomic<int64_t> allocations = 0, of_products = 0, of_openmp = 0;

struct Library {
    const char* names[2];
    std::atomic<int64_t>* count;
    uintptr_t begin = 0, end = 0;  // of its code
};
using Libraries = std::array<Library, 2>;
Libraries find_libraries() {
    Libraries all{{{{"libdnnl", "libopenblas"}, &of_products}, {{"libgomp", "libomp"}, &of_openmp}}};
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* to) {
            for (Library& library : *static_cast<Libraries*>(to)) {
                if (!std::strstr(info->dlpi_name, library.names[0]) && !std::strstr(info->dlpi_name, library.names[1]))
                    continue;
                for (int i = 0; i < info->dlpi_phnum; ++i) {
                    const auto& part = info->dlpi_phdr[i];
                    if (part.p_type != PT_LOAD || !(part.p_flags & PF_X)) continue;
                    library.begin = info->dlpi_addr + part.p_vaddr, library.end = library.begin + part.p_memsz;
                }
            }
            return 0;
        },
        &all);
    return all;
}
const Libraries g_libraries = find_libraries();

void count(const void* caller) {
    const auto from = reinterpret_cast<uintptr_t>(caller);
    std::atomic<int64_t>* counter = &allocations;
    for (const Library& library : g_libraries)
        if (library.begin <= from && from < library.end) counter = library.count;
    counter->fetch_add(1, std::memory_order_relaxed);
}

// Of the quietest of some steps, the last of those that it runs. A thread makes its workspaces when its first piece of
// work comes, which for one of two threads that share small pieces may be after any number of steps; what a step itself
// allocates, every step does.
template <class Step>
int64_t least_allocations(const Step& step) {
    int64_t least = std::numeric_limits<int64_t>::max();
    for (int i = 0; i < 8 && least > 0; ++i) {
        const int64_t before = allocations;
        step();
        least = std::min<int64_t>(least, allocations - before);
    }
    return least;
}

}  // namespace

// The C library's, by their own names: those below stand in front of them in this program and all it loads.
extern "C" {
void* __libc_malloc(size_t bytes);
void* __libc_calloc(size_t count, size_t bytes);
void* __libc_realloc(void* memory, size_t bytes);
void* __libc_memalign(size_t alignment, size_t bytes);

void* malloc(size_t bytes) {
    count(__builtin_return_address(0));
    return __libc_malloc(bytes);
}
void* calloc(size_t number, size_t bytes) {
    count(__builtin_return_address(0));
    return __libc_calloc(number, bytes);
}
void* realloc(void* memory, size_t bytes) {
    count(__builtin_return_address(0));
    return __libc_realloc(memory, bytes);
}
void* memalign(size_t alignment, size_t bytes) {
    count(__builtin_return_address(0));
    return __libc_memalign(alignment, bytes);
}
void* aligned_alloc(size_t alignment, size_t bytes) {
    count(__builtin_return_address(0));
    return __libc_memalign(alignment, bytes);
}
int posix_memalign(void** memory, size_t alignment, size_t bytes) {
    count(__builtin_return_address(0));
    *memory = __libc_memalign(alignment, bytes);
    return *memory ? 0 : ENOMEM;
}
}

// So that the caller of `new` is seen, and not the C++ library. Arrays and those without an exception come through
// here.
void* operator new(std::size_t bytes) {
    count(__builtin_return_address(0));
    if (void* memory = __libc_malloc(std::max<std::size_t>(bytes, 1))) return memory;
    throw std::bad_alloc();
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {
    count(__builtin_return_address(0));
    if (void* memory = __libc_memalign(static_cast<std::size_t>(alignment), std::max<std::size_t>(bytes, 1)))
        return memory;
    throw std::bad_alloc();
}
void operator delete(void* memory) noexcept {
    std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
    std::free(memory);
}
void operator delete(void* memory, std::align_val_t) noexcept {
    std::free(memory);
}
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
    std::free(memory);
}

namespace plimsoll {
namespace {

constexpr int64_t kMicroBatches = 3;
constexpr CommKind kKinds[] = {CommKind::kAllToAll,  CommKind::kReduceScatter, CommKind::kAllGather,
                               CommKind::kBroadcast, CommKind::kSend,          CommKind::kControl};

// A rank alone, as single_transport(), whose exchanges are counted.
class CountedTransport final : public Transport {
  public:
    explicit CountedTransport(std::atomic<int64_t>& exchanges) : exchanges_(exchanges), alone_(single_transport()) {}
    int rank() const override { return 0; }
    int size() const override { return 1; }
    std::unique_ptr<Exchange> exchange(std::span<const SendTo> sends, std::span<const ReceiveFrom> receives) override {
        ++exchanges_;
        return alone_->exchange(sends, receives);
    }
    std::unique_ptr<Transport> split(int, int) override { return std::make_unique<CountedTransport>(exchanges_); }
    void abort(const std::string& reason, ExitCode code) override { alone_->abort(reason, code); }

  private:
    std::atomic<int64_t>& exchanges_;
    std::unique_ptr<Transport> alone_;
};

// The ops of a step, in their order.
class OpNames final : public Tracer {
  public:
    std::vector<std::string> names;
    void begin(const char* name, int64_t) override { names.push_back(name); }
    void end() override {}
};

class StepCost : public testing::Test {
  protected:
    TemporaryFolder folder_;

    RunConfig config() {
        RunConfig c = quick_run(folder_ / "run", 10);
        c.run.threads = 1, c.model.layers = 3;
        c.train.micro_batch = 1, c.train.batch_tokens = 16 * kMicroBatches;
        c.data.val_samples = 2, c.probes.enabled = false;
        return c;
    }
};

TEST_F(StepCost, OneProcessExchangesNothing) {
    for (const auto& [virtual_ranks, chunks] : {std::pair{1, 1}, {3, 1}, {1, 3}, {3, 3}}) {
        RunConfig c = config();
        c.run.dir += fmt::format("{}{}", virtual_ranks, chunks);
        c.parallel.virtual_ranks = virtual_ranks, c.parallel.chunks = chunks;
        if (chunks > 1) c.parallel.schedule = "interleaved";
        std::atomic<int64_t> exchanges = 0;
        Trainer trainer(c, {}, Communicator(std::make_unique<CountedTransport>(exchanges)));
        exchanges = 0;  // the start of a run tells all ranks of its directory
        for (int step = 0; step < 3; ++step) trainer.train_step();
        EXPECT_EQ(exchanges, 0) << virtual_ranks << " virtual ranks, " << chunks << " chunks";
    }
}

// What a step was before there were ranks, written out, and what a replica makes of it.
TEST_F(StepCost, OneProcessAddsNoOpAndNoMemory) {
    const RunConfig c = config();
    const Loader data(c.data, Split::kTrain,
                      {.T = c.model.context, .placeholders = 0, .shared_placeholders = 0, .seed = 1});
    const NetworkConfig network{c.model, c.attention, c.loss, data.vocab_size()};
    const Precision precision{DType::kF32};
    const int64_t tokens = c.tokens_per_micro_batch();
    OpNames ops, replica_ops;
    Exec exec{.threads = 1};

    Transformer model(network, StageRange::whole(c.model), tokens, precision);
    Optimizer optimizer(c.optimizer, model.table(), precision, {{0, model.table().buffer_elements()}});
    LocalCoreAttention core;
    BatchFeed feed(data, 1, exec);
    model.allocate(), optimizer.allocate();
    initialize(model.parameters(), model.table(), 1, exec);
    int64_t step = 0;
    const auto plain_step = [&] {
        for (int64_t m = 0; m < kMicroBatches; ++m) {
            const TraceRange range(exec, "micro batch", m);
            const ModelInput input = feed.next(step * kMicroBatches + m, 1);
            const Write write = m == 0 ? Write::kOverwrite : Write::kAccumulate;
            model.forward(core, input, write, exec);
            model.backward(
                core, input, write, [](int64_t) {}, exec);
        }
        const double mean = 1.0 / static_cast<double>(model.loss(exec).scored);
        EXPECT_GT(sum_of_squares(model.gradients(), exec), 0.0);
        optimizer.step(model, 1e-3, mean, ++step, exec);
    };

    RankGrid grid(Communicator(single_transport()), c);
    Replica replica(c, network, precision, grid, data, exec);
    replica.allocate(Device::kCpu);
    NetworkChunk& chunk = *replica.chunks().front();
    initialize(chunk.model.parameters(), chunk.model.table(), 1, exec);
    int64_t replica_step = 0;
    const auto step_of_replica = [&] {
        const double mean = 1.0 / static_cast<double>(replica.compute(replica_step * kMicroBatches, exec).scored);
        replica.finish_gradients();
        EXPECT_GT(replica.gradient_norm(exec), 0.0);
        replica.update(1e-3, mean, ++replica_step, exec);
    };
    // After steps that may fill caches.
    const auto allocations_of = [](const auto& one_step) {
        one_step(), one_step();
        return least_allocations(one_step);
    };
    const int64_t plain = allocations_of(plain_step), here = allocations_of(step_of_replica);
    Trainer trainer(c, {});
    const int64_t whole = allocations_of([&] { trainer.train_step(); });
    RecordProperty("allocations", fmt::format("{} {} {}", plain, here, whole));
    EXPECT_EQ(plain, 0);
    EXPECT_EQ(here, 0);
    EXPECT_EQ(whole, 0);

    exec.tracer = &ops;
    plain_step();
    exec.tracer = &replica_ops;
    step_of_replica();
    EXPECT_EQ(replica_ops.names, ops.names);
    EXPECT_EQ(chunk.bytes(), model.plan().bytes() + optimizer.plan().bytes());
    EXPECT_FALSE(chunk.sync.has_value());
    const std::span<const float> a = model.parameters().span<float>(), b = chunk.model.parameters().span<float>();
    EXPECT_TRUE(std::ranges::equal(a, b));
    for (const Communicator* group : {&grid.world, &grid.data, &grid.forward, &grid.backward})
        for (const CommKind kind : kKinds) EXPECT_EQ(group->stats(kind).calls, 0) << group->name() << name_of(kind);
}

// A step of one micro batch in bf16 takes its norm from what products have left, and not what a fault did afterwards.
TEST_F(StepCost, TheNormOfOneMicroBatchIsThatOfItsGradients) {
    RunConfig c = config();
    c.train.batch_tokens = c.tokens_per_micro_batch();
    const Loader data(c.data, Split::kTrain,
                      {.T = c.model.context, .placeholders = 0, .shared_placeholders = 0, .seed = 1});
    const NetworkConfig network{c.model, c.attention, c.loss, data.vocab_size()};
    RankGrid grid(Communicator(single_transport()), c);
    const Exec exec{.threads = 2};
    Replica replica(c, network, Precision{DType::kBF16}, grid, data, exec);
    replica.allocate(Device::kCpu);
    Transformer& model = replica.chunks().front()->model;
    initialize(model.parameters(), model.table(), 1, exec);
    model.refresh_working(exec);
    EXPECT_TRUE(model.sums_squares());
    const auto norm = [&] { return std::sqrt(sum_of_squares(model.gradients(), exec)); };
    ::setenv("PLIMSOLL_FAULT", "scale_gradient:2:1e3", 1);
    FaultHook fault = FaultHook::from_environment();
    ::unsetenv("PLIMSOLL_FAULT");
    for (int64_t step = 1; step <= 3; ++step) {
        replica.compute(step, exec);
        replica.finish_gradients();
        const double before = norm();
        replica.inject(fault, step);
        EXPECT_NEAR(norm() / before, step == 2 ? 1e3 : 1, 1e-2);
        EXPECT_NEAR(replica.gradient_norm(exec) / norm(), 1, 1e-13) << "step " << step;  // another order of fp64
    }
}

// Forward, backward, the norm, clipping, the update and the batch's data: after steps that fill caches nothing is
// allocated, by any thread. In fp32 a product of oneDNN's allocates inside the library; bf16 on AVX512_BF16 has no
// library.
TEST_F(StepCost, AStepAllocatesNothing) {
    struct Case {
        const char* variant;
        const char* optimizer;
    };
    for (const Case& c : {Case{"softmax", "adamw"},
                          {"sigmoid", "adamw"},
                          {"gated", "adamw"},
                          {"gated_headwise", "adamw"},
                          {"placeholder", "adamw"},
                          {"sink_logit", "adamw"},
                          {"kv_bias", "adamw"},
                          {"differential_v1", "adamw"},
                          {"window_pinned", "adamw"},
                          {"value_key_bias", "adamw"},
                          {"mlp_kernel", "adamw"},
                          {"temperature", "adamw"},
                          {"bos_decorrelation", "adamw"},
                          {"fixed_position", "adamw"},
                          {"head_mixture", "adamw"},
                          {"softmax", "muon"},
                          {"softmax", "orthoadam"},
                          {"softmax", "sgd"}})
        for (const char* precision : {"fp32", "bf16"}) {
            RunConfig run =
                quick_run(folder_ / fmt::format("{}-{}-{}", c.variant, c.optimizer, precision), 20, c.variant);
            run.run.precision = precision, run.run.threads = 2, run.optimizer.kind = c.optimizer;
            run.model.layers = 2, run.model.heads = 4, run.train.clip = 1e-3;
            run.train.micro_batch = 2, run.train.batch_tokens = 2 * 2 * run.model.context;
            run.data.val_samples = 2, run.probes.enabled = false;
            Trainer trainer(run, {});
            for (int step = 0; step < 3; ++step) trainer.train_step();
            const int64_t before_products = of_products;
            StepResult step;
            EXPECT_EQ(least_allocations([&] { step = trainer.train_step(); }), 0)
                << c.variant << " " << c.optimizer << " " << precision;
            const bool ours = cpu::avx512_bf16::available();
            // Muon's products are fp32.
            if (ours && precision == std::string("bf16") && c.optimizer != std::string("muon")) {
                EXPECT_EQ(of_products, before_products) << c.variant;
            }
            EXPECT_GT(step.norm, run.train.clip);  // it was clipped
        }
}

// A token behind others, and its logits: within the context and of a stream.
TEST_F(StepCost, ADecodedTokenAllocatesNothing) {
    for (const Named& named : networks()) {
        NetworkConfig network = named.config;
        network.model.context = 64;
        const TinyModel run(network, 1, DType::kF32);
        const NetworkWeights weights{run.model.table(), run.model.parameters(), {}, run.model.precision()};
        for (const bool streaming : {false, true}) {
            if (streaming && !can_stream(network)) continue;
            CacheOptions cache{.tokens = 64};
            if (streaming) cache.streaming = {2, 9};
            Decoder decoder(network, weights, {.cache = cache, .chunk = 1}, {.threads = 2});
            const int32_t token = 3;
            const auto append = [&](int times) {
                for (int i = 0; i < times; ++i) decoder.append({&token, 1}), decoder.logits();
            };
            append(33);  // buffers that double are as large as they get
            EXPECT_EQ(least_allocations([&] { append(3); }), 0) << named.name << (streaming ? ", streaming" : "");
        }
    }
}

}  // namespace
}  // namespace plimsoll
