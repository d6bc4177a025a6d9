// Messages in a GPU's memory over a transport that moves host bytes. The copy out is part of the GPU's stream, as is
// the copy back; between them a thread begins the exchange when the copy out is done, while the caller computes.
#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <numeric>
#include <thread>

#include "dist/transport.h"
#include "kernels/error.h"
#include "kernels/memory.h"

namespace plimsoll {
namespace {

constexpr std::chrono::microseconds kPoll{30};  // between looks at the GPU: far below what a copy of a bucket takes

// Pinned memory of one exchange. Used again at once: an exchange touches it after its own copies out, which stand
// behind the copies back of the one before in the GPU's stream.
struct Staging {
    Staging(int64_t bytes, const Exec& exec)
        : bytes(bytes), memory(allocate_pinned(std::max<int64_t>(bytes, 1), "messages on their way")), copied(exec) {}
    int64_t bytes;
    PinnedMemory memory;
    Fence copied;  // out of the device
};

// An exchange that waits for the copy out, or is under way.
struct Job {
    std::unique_ptr<Staging> staging;
    std::vector<SendTo> sends;
    std::vector<ReceiveFrom> receives;
    std::unique_ptr<Exchange> exchange;  // once begun
    std::exception_ptr error;
    bool begun = false, abandoned = false;
};

// The thread that begins exchanges, in the order in which they were asked for.
class Starter {
  public:
    explicit Starter(Transport& transport) : transport_(transport), thread_([this] { work(); }) {}
    // Before the transport goes.
    void stop() {
        {
            const std::lock_guard lock(mutex_);
            stop_ = true;
        }
        changed_.notify_all();
        thread_.join();
    }

    void begin(std::shared_ptr<Job> job) {
        {
            const std::lock_guard lock(mutex_);
            jobs_.push_back(std::move(job));
        }
        changed_.notify_all();
    }
    // Until everything that was asked for has begun: whoever exchanges host bytes comes after it.
    void drain() {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return jobs_.empty(); });
    }
    bool wait_until_begun(const Job& job, std::chrono::steady_clock::time_point deadline) {
        std::unique_lock lock(mutex_);
        return changed_.wait_until(lock, deadline, [&] { return job.begun; });
    }
    bool begun(const Job& job) const {
        const std::lock_guard lock(mutex_);
        return job.begun;
    }
    // The thread will not touch the job any more; returns its memory for use by others.
    std::unique_ptr<Staging> abandon(Job& job) {
        const std::lock_guard lock(mutex_);
        job.abandoned = true;
        job.exchange.reset();
        return std::move(job.staging);
    }

  private:
    void work() {
        std::unique_lock lock(mutex_);
        while (true) {
            changed_.wait(lock, [&] { return stop_ || !jobs_.empty(); });
            if (stop_) return;
            Job& job = *jobs_.front();
            try {
                if (!job.abandoned && !job.staging->copied.passed()) {
                    changed_.wait_for(lock, kPoll, [&] { return stop_; });
                    continue;
                }
                if (!job.abandoned) job.exchange = transport_.exchange(job.sends, job.receives);
            } catch (...) {
                job.error = std::current_exception();
            }
            job.begun = true;
            jobs_.pop_front();
            changed_.notify_all();
        }
    }

    Transport& transport_;
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<std::shared_ptr<Job>> jobs_;
    bool stop_ = false;
    std::thread thread_;
};

// What the exchanges of one rank and its groups share.
struct Pool {
    std::vector<std::unique_ptr<Staging>> idle;

    std::unique_ptr<Staging> take(int64_t bytes, const Exec& exec) {
        for (std::unique_ptr<Staging>& staging : idle) {
            if (staging->bytes != bytes) continue;
            std::swap(staging, idle.back());
            std::unique_ptr<Staging> taken = std::move(idle.back());
            idle.pop_back();
            return taken;
        }
        return std::make_unique<Staging>(bytes, exec);
    }
};

class StagedExchange final : public Exchange {
  public:
    StagedExchange(std::shared_ptr<Starter> starter, std::shared_ptr<Pool> pool, std::shared_ptr<Job> job,
                   std::span<const ReceiveFrom> receives, int rank, const Exec& exec)
        : starter_(std::move(starter)),
          pool_(std::move(pool)),
          job_(std::move(job)),
          receives_(receives.begin(), receives.end()),
          rank_(rank),
          exec_(exec) {}
    ~StagedExchange() override {
        if (auto staging = starter_->abandon(*job_)) pool_->idle.push_back(std::move(staging));
    }

    bool wait(std::chrono::nanoseconds timeout) override {
        const auto deadline = std::chrono::steady_clock::now() + timeout;
        if (!starter_->wait_until_begun(*job_, deadline)) return false;
        if (job_->error) std::rethrow_exception(job_->error);
        if (!job_->exchange->wait(deadline - std::chrono::steady_clock::now())) return false;
        for (size_t i = 0; i < receives_.size(); ++i)
            enqueue_copy_bytes(receives_[i].bytes.data(), job_->receives[i].bytes.data(),
                               static_cast<int64_t>(receives_[i].bytes.size()), exec_);
        return true;
    }
    std::vector<int> silent() const override {
        return starter_->begun(*job_) ? job_->exchange->silent() : std::vector<int>{rank_};
    }

  private:
    std::shared_ptr<Starter> starter_;
    std::shared_ptr<Pool> pool_;
    std::shared_ptr<Job> job_;
    std::vector<ReceiveFrom> receives_;  // on the device
    int rank_;
    Exec exec_;
};

class StagedTransport final : public Transport {
  public:
    StagedTransport(std::shared_ptr<Transport> host, const Exec& exec, std::shared_ptr<Pool> pool)
        : host_(std::move(host)), exec_(exec), pool_(std::move(pool)), starter_(std::make_shared<Starter>(*host_)) {}
    ~StagedTransport() override { starter_->stop(); }
    int rank() const override { return host_->rank(); }
    int size() const override { return host_->size(); }

    std::unique_ptr<Exchange> exchange(std::span<const SendTo> sends, std::span<const ReceiveFrom> receives) override {
        starter_->drain();
        return host_->exchange(sends, receives);
    }

    std::unique_ptr<Exchange> exchange_on_device(std::span<const SendTo> sends, std::span<const ReceiveFrom> receives,
                                                 const Operation& /*operation*/) override {
        const auto add = [](size_t sum, const auto& message) { return sum + message.bytes.size(); };
        const size_t bytes = std::accumulate(receives.begin(), receives.end(),
                                             std::accumulate(sends.begin(), sends.end(), size_t{0}, add), add);
        const auto job = std::make_shared<Job>();
        job->staging = pool_->take(static_cast<int64_t>(bytes), exec_);
        auto* at = static_cast<std::byte*>(job->staging->memory.get());
        const auto part = [&](size_t size) { return std::span(std::exchange(at, at + size), size); };
        for (const SendTo& send : sends) {
            const std::span<std::byte> copy = part(send.bytes.size());
            enqueue_copy_bytes(copy.data(), send.bytes.data(), static_cast<int64_t>(copy.size()), exec_);
            job->sends.push_back({send.peer, copy});
        }
        for (const ReceiveFrom& receive : receives) job->receives.push_back({receive.peer, part(receive.bytes.size())});
        job->staging->copied.record();
        starter_->begin(job);
        return std::make_unique<StagedExchange>(starter_, pool_, job, receives, rank(), exec_);
    }

    std::unique_ptr<Transport> split(int color, int key) override {
        starter_->drain();
        return std::make_unique<StagedTransport>(host_->split(color, key), exec_, pool_);
    }
    void abort(const std::string& reason, ExitCode code) override { host_->abort(reason, code); }

  private:
    std::shared_ptr<Transport> host_;
    Exec exec_;
    std::shared_ptr<Pool> pool_;
    std::shared_ptr<Starter> starter_;
};

}  // namespace

std::unique_ptr<Transport> staged_transport(std::shared_ptr<Transport> host, const Exec& exec) {
    return std::make_unique<StagedTransport>(std::move(host), exec, std::make_shared<Pool>());
}

}  // namespace plimsoll
