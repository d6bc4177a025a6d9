// Ranks as processes under MPI. One thread of each process owns MPI: it alone calls it, so that any MPI will do, and
// messages move while the other threads compute. It sleeps when nothing is under way, and shortly between looks when
// something is: ranks that share cores take no time from each other.
#include <mpi.h>

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <functional>
#include <future>
#include <mutex>
#include <thread>

#include "dist/transport.h"
#include "kernels/error.h"

namespace plimsoll {
namespace {

constexpr size_t kLargestMessage = size_t{1} << 30;  // MPI counts are ints
constexpr int kTag = 7;
constexpr std::chrono::microseconds kShortestPause{20}, kLongestPause{160};

void check_mpi(int code, const char* what) {
    if (code == MPI_SUCCESS) return;
    char text[MPI_MAX_ERROR_STRING] = {};
    int length = 0;
    MPI_Error_string(code, text, &length);
    throw Error(ExitCode::kInternal, fmt::format("MPI, {}: {}", what, text));
}

// An exchange as the thread sees it.
struct Requests {
    std::vector<SendTo> sends;
    std::vector<ReceiveFrom> receives;
    MPI_Comm group = MPI_COMM_NULL;
    std::vector<MPI_Request> open;
    std::vector<int> peers;        // of each request
    std::vector<size_t> expected;  // bytes of a receive, SIZE_MAX for a send
    std::string problem;
    bool done = false;
};

// The thread. Lives as long as the process uses MPI.
class MpiThread {
  public:
    static MpiThread& instance() {
        static MpiThread thread;
        return thread;
    }

    // Runs `work` on the thread and waits for it.
    template <class F>
    auto run(F&& work) -> decltype(work()) {
        std::packaged_task<decltype(work())()> task(std::forward<F>(work));
        auto result = task.get_future();
        {
            const std::lock_guard lock(mutex_);
            tasks_.push_back([&task] { task(); });
        }
        wake_.notify_one();
        return result.get();
    }
    void start(const std::shared_ptr<Requests>& requests) {
        {
            const std::lock_guard lock(mutex_);
            tasks_.push_back([this, requests] { post(requests); });
        }
        wake_.notify_one();
    }
    // Waits for MPI's start.
    bool starts_within(std::chrono::nanoseconds deadline) {
        std::unique_lock lock(mutex_);
        return finished_.wait_for(lock, deadline, [&] { return started_; });
    }
    std::mutex& mutex() { return mutex_; }
    std::condition_variable& finished() { return finished_; }

  private:
    MpiThread() : thread_([this] { work(); }) {}
    ~MpiThread() {
        {
            const std::lock_guard lock(mutex_);
            stop_ = true;
        }
        wake_.notify_one();
        thread_.join();
    }

    void work() {
        int provided = 0, initialized = 0;
        MPI_Initialized(&initialized);
        if (!initialized) MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided);
        MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
        std::unique_lock lock(mutex_);
        started_ = true;
        finished_.notify_all();
        std::chrono::microseconds pause = kShortestPause;
        while (true) {
            if (tasks_.empty() && active_.empty()) wake_.wait(lock, [&] { return stop_ || !tasks_.empty(); });
            if (stop_ && tasks_.empty() && active_.empty()) break;
            std::deque<std::function<void()>> tasks = std::exchange(tasks_, {});
            lock.unlock();
            for (const auto& task : tasks) task();
            const bool progress = test();
            lock.lock();
            // The longer nothing happens the longer the next sleep: another rank may need a while yet, and this core
            // computes meanwhile.
            pause = progress || !tasks_.empty() ? kShortestPause : std::min(2 * pause, kLongestPause);
            if (!progress && tasks_.empty() && !active_.empty())
                wake_.wait_for(lock, pause, [&] { return !tasks_.empty(); });
        }
        lock.unlock();
        MPI_Finalize();
    }

    void post(const std::shared_ptr<Requests>& r) {
        const auto each_chunk = [](auto bytes, auto&& f) {
            for (size_t at = 0; at == 0 || at < bytes.size(); at += kLargestMessage)
                f(bytes.subspan(at, std::min(kLargestMessage, bytes.size() - at)));
        };
        const auto note = [&](int code, MPI_Request request, int peer, size_t expected) {
            if (code != MPI_SUCCESS) r->problem = fmt::format("MPI refuses a message to or from rank {}", peer);
            r->open.push_back(request), r->peers.push_back(peer), r->expected.push_back(expected);
        };
        for (const ReceiveFrom& receive : r->receives)
            each_chunk(receive.bytes, [&](std::span<std::byte> part) {
                MPI_Request request = MPI_REQUEST_NULL;
                const int code = MPI_Irecv(part.data(), static_cast<int>(part.size()), MPI_BYTE, receive.peer, kTag,
                                           r->group, &request);
                note(code, request, receive.peer, part.size());
            });
        for (const SendTo& send : r->sends)
            each_chunk(send.bytes, [&](std::span<const std::byte> part) {
                MPI_Request request = MPI_REQUEST_NULL;
                const int code = MPI_Isend(part.data(), static_cast<int>(part.size()), MPI_BYTE, send.peer, kTag,
                                           r->group, &request);
                note(code, request, send.peer, SIZE_MAX);
            });
        active_.push_back(r);
    }

    // Looks at everything under way. Returns whether something was completed.
    bool test() {
        bool progress = false;
        for (const std::shared_ptr<Requests>& r : active_) {
            bool all = true;
            for (size_t i = 0; i < r->open.size(); ++i) {
                if (r->open[i] == MPI_REQUEST_NULL) continue;
                int completed = 0, bytes = 0;
                MPI_Status status;
                const int code = MPI_Test(&r->open[i], &completed, &status);
                if (code != MPI_SUCCESS)
                    r->problem = fmt::format("MPI: a message to or from rank {} failed; of another size than expected?",
                                             r->peers[i]);
                else if (completed && r->expected[i] != SIZE_MAX &&
                         (MPI_Get_count(&status, MPI_BYTE, &bytes), static_cast<size_t>(bytes) != r->expected[i]))
                    r->problem = fmt::format("rank {}: a message of {} bytes, {} were expected", r->peers[i], bytes,
                                             r->expected[i]);
                if (code != MPI_SUCCESS || completed) r->open[i] = MPI_REQUEST_NULL, progress = true;
                all = all && r->open[i] == MPI_REQUEST_NULL;
            }
            if (!all) continue;
            {
                const std::lock_guard lock(mutex_);
                r->done = true;
            }
            finished_.notify_all();
        }
        std::erase_if(active_, [](const auto& r) { return r->done; });
        return progress;
    }

    std::mutex mutex_;
    std::condition_variable wake_, finished_;
    std::deque<std::function<void()>> tasks_;
    std::vector<std::shared_ptr<Requests>> active_;  // the thread's own
    bool started_ = false, stop_ = false;
    std::thread thread_;
};

class MpiExchange final : public Exchange {
  public:
    explicit MpiExchange(std::shared_ptr<Requests> requests) : requests_(std::move(requests)) {}
    bool wait(std::chrono::nanoseconds timeout) override {
        MpiThread& thread = MpiThread::instance();
        std::unique_lock lock(thread.mutex());
        if (!thread.finished().wait_for(lock, timeout, [&] { return requests_->done; })) return false;
        if (!requests_->problem.empty()) throw Error(ExitCode::kInternal, requests_->problem);
        return true;
    }
    std::vector<int> silent() const override {
        return MpiThread::instance().run([&] {
            std::vector<int> ranks;
            for (size_t i = 0; i < requests_->open.size(); ++i)
                if (requests_->open[i] != MPI_REQUEST_NULL) ranks.push_back(requests_->peers[i]);
            std::ranges::sort(ranks);
            ranks.erase(std::ranges::unique(ranks).begin(), ranks.end());
            return ranks;
        });
    }

  private:
    std::shared_ptr<Requests> requests_;
};

class MpiTransport final : public Transport {
  public:
    explicit MpiTransport(MPI_Comm group) : group_(group) {
        MpiThread::instance().run([&] {
            MPI_Comm_rank(group_, &rank_);
            MPI_Comm_size(group_, &size_);
        });
    }
    ~MpiTransport() override {
        if (group_ != MPI_COMM_WORLD) MpiThread::instance().run([&] { MPI_Comm_free(&group_); });
    }
    int rank() const override { return rank_; }
    int size() const override { return size_; }

    std::unique_ptr<Exchange> exchange(std::span<const SendTo> sends, std::span<const ReceiveFrom> receives) override {
        const auto requests = std::make_shared<Requests>();
        requests->sends.assign(sends.begin(), sends.end());
        requests->receives.assign(receives.begin(), receives.end());
        requests->group = group_;
        MpiThread::instance().start(requests);
        return std::make_unique<MpiExchange>(requests);
    }
    std::unique_ptr<Transport> split(int color, int key) override {
        return std::make_unique<MpiTransport>(MpiThread::instance().run([&] {
            MPI_Comm group = MPI_COMM_NULL;
            check_mpi(MPI_Comm_split(group_, color, key, &group), "MPI_Comm_split");
            MPI_Comm_set_errhandler(group, MPI_ERRORS_RETURN);
            return group;
        }));
    }
    // Ends the job: MPI has no way to end an exchange of another rank. This is the last word of the process, nobody
    // above gets to print it. Where all ranks have the same to say, the first says it.
    void abort(const std::string& reason, ExitCode code) override {
        if (rank_ > 0) std::this_thread::sleep_for(std::chrono::milliseconds(1000 + 100 * std::min(rank_, 10)));
        std::fprintf(stderr, "plimsoll: rank %d: %s\n", rank_, reason.c_str());
        MpiThread::instance().run([code] { MPI_Abort(MPI_COMM_WORLD, static_cast<int>(code)); });
    }

  private:
    MPI_Comm group_;
    int rank_ = 0, size_ = 1;
};

}  // namespace

bool has_mpi() {
    return true;
}

std::unique_ptr<Transport> mpi_transport(std::chrono::nanoseconds deadline, const std::function<void()>& late) {
    if (!MpiThread::instance().starts_within(deadline)) late();
    return std::make_unique<MpiTransport>(MPI_COMM_WORLD);
}

}  // namespace plimsoll
