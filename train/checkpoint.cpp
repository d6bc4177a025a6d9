#include "train/checkpoint.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>

#include "data/file.h"
#include "kernels/error.h"
#include "train/crc32c.h"
#include "train/machine.h"
#include "train/timing.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;

// Makes the folder of checkpoints, and what leads to it, last through a power cut. Folders above that may not be opened
// were not made by this run.
void make_lasting_folder(const std::string& path) {
    fs::create_directories(path);
    for (fs::path above = fs::absolute(path).parent_path();; above = above.parent_path()) {
        try {
            flush_folder(above.string());
        } catch (const Error&) {
        }
        if (above == above.parent_path()) break;
    }
}

int gravity(ExitCode code) {
    return code == ExitCode::kTransient ? 2 : code == ExitCode::kInternal ? 1 : 0;
}

uint32_t crc_of_file(const std::string& path) {
    const std::string text = read_file(path, "checkpoint manifest");
    return crc32c(text.data(), text.size());
}

}  // namespace

Checkpointer::Checkpointer(const std::string& run_directory, const CheckpointOptions& options, Communicator& world)
    : store_(run_directory), options_(options), world_(world) {}

std::optional<Checkpointer::Failure> Checkpointer::failure_of(const std::function<void()>& work) {
    try {
        work();
        return {};
    } catch (const Error& error) {
        return Failure{error.code(), error.what()};
    } catch (const std::exception& error) {  // file systems, memory
        return Failure{ExitCode::kIo, error.what()};
    }
}

std::optional<Checkpointer::Failure> Checkpointer::agree(const std::optional<Failure>& own) {
    if (world_.size() == 1) return own;
    struct Short {
        int64_t code, length;
    };
    const Short mine{own ? static_cast<int64_t>(own->code) : 0, own ? static_cast<int64_t>(own->message.size()) : 0};
    const std::vector<Short> all = world_.gather_each(mine);
    int gravest = -1;
    for (int r = 0; r < world_.size(); ++r) {
        const auto weight = [&](int rank) {
            return gravity(static_cast<ExitCode>(all[static_cast<size_t>(rank)].code));
        };
        if (all[static_cast<size_t>(r)].code && (gravest < 0 || weight(r) > weight(gravest))) gravest = r;
    }
    if (gravest < 0) return {};
    const Short& chosen = all[static_cast<size_t>(gravest)];
    Failure failure{static_cast<ExitCode>(chosen.code), std::string(static_cast<size_t>(chosen.length), ' ')};
    if (own && gravest == world_.rank()) failure.message = own->message;
    if (chosen.length > 0) world_.broadcast(std::as_writable_bytes(std::span(failure.message)), gravest);
    if (gravest > 0) failure.message = fmt::format("rank {}: {}", gravest, failure.message);
    return failure;
}

void Checkpointer::throw_agreed(const std::optional<Failure>& own) {
    if (const std::optional<Failure> failure = agree(own)) throw Error(failure->code, failure->message);
}

void Checkpointer::take_over() {
    generation_.assign(16, '0');
    throw_agreed(failure_of([&] {
        if (world_.rank() != 0) return;
        make_lasting_folder(store_.root());
        lock_.emplace(fs::path(store_.root()).parent_path().string());
        generation_ = lock_->generation();
        store_.tidy();
    }));
    world_.broadcast(std::as_writable_bytes(std::span(generation_)), 0);
}

// Moves the parts into the copy; whether there was room.
bool Checkpointer::copy_parts(std::vector<CheckpointPart>& parts) {
    int64_t bytes = 0;
    for (const CheckpointPart& part : parts) bytes += part.data.bytes();
    if (bytes > copy_bytes_) {
        copy_.reset();
        copy_bytes_ = 0;
        if (bytes > available_memory() / 2) return false;
        copy_.reset(new (std::nothrow) std::byte[static_cast<size_t>(bytes)]);
        if (!copy_) return false;
        copy_bytes_ = bytes;
    }
    std::byte* to = copy_.get();
    for (CheckpointPart& part : parts) {
        if (part.data.bytes() > 0) std::memcpy(to, part.data.data, static_cast<size_t>(part.data.bytes()));
        part.data.data = to;
        to += part.data.bytes();
    }
    return true;
}

void Checkpointer::write(Flight& flight) const {
    flight.failure = failure_of([&] {
        if (lock_) lock_->check_held();
        fs::create_directories(flight.folder);
        flight.share = share_text(write_parts(flight.folder, world_.rank(), flight.parts, options_.chunk_bytes));
    });
    flight.done = true;
}

void Checkpointer::start(const TrainingState& state, std::vector<CheckpointPart> parts) {
    check(!flight_ && !generation_.empty(), "save of step {}: another is under way, or the run was not taken over",
          state.step);
    flight_ = std::make_unique<Flight>();
    flight_->state = state;
    flight_->folder = store_.unfinished(state.step, generation_);
    flight_->parts = std::move(parts);
    flight_->started = now_seconds();
    if (options_.asynchronous && copy_parts(flight_->parts)) {
        try {
            flight_->writer = std::jthread([this] { write(*flight_); });
            return;
        } catch (const std::system_error&) {  // no more threads
        }
    }
    write(*flight_);
}

bool Checkpointer::all_done() {
    std::array<double, 1> writing{flight_->done ? 0.0 : 1.0};
    world_.sum(writing);
    return writing[0] == 0;
}

std::optional<SaveOutcome> Checkpointer::poll() {
    if (!flight_ || !all_done()) return {};
    return publish();
}

std::optional<SaveOutcome> Checkpointer::finish() {
    if (!flight_) return {};
    return publish();
}

// What every rank wrote, on rank 0.
std::vector<std::string> Checkpointer::gather_shares(const std::string& own) {
    if (world_.size() == 1) return {own};
    const std::vector<int64_t> sizes = world_.gather_each(static_cast<int64_t>(own.size()));
    if (world_.rank() != 0) {
        world_.send(std::as_bytes(std::span(own)), 0).wait();
        return {};
    }
    std::vector<std::string> shares{own};
    for (int r = 1; r < world_.size(); ++r) {
        shares.emplace_back(static_cast<size_t>(sizes[static_cast<size_t>(r)]), ' ');
        world_.receive(std::as_writable_bytes(std::span(shares.back())), r).wait();
    }
    return shares;
}

SaveOutcome Checkpointer::publish() {
    if (flight_->writer.joinable()) flight_->writer.join();
    const std::unique_ptr<Flight> flight = std::move(flight_);
    const int64_t step = flight->state.step;
    std::string note;
    std::optional<Failure> failure = agree(flight->failure);
    if (!failure) {
        const std::vector<std::string> shares = gather_shares(flight->share);
        std::optional<Failure> own;
        if (world_.rank() == 0) {
            own = failure_of([&] {
                Manifest manifest{.state = flight->state, .build = build_info().at("commit")};
                for (const std::string& share : shares) add_share(manifest, share);
                store_.publish(step, flight->folder, manifest, [&] { lock_->check_held(); });
            });
            if (!own)
                if (const auto left = failure_of([&] { store_.prune(step, flight->state.best_step, options_.keep); }))
                    note = fmt::format(" (older ones stay: {})", left->message);
        }
        failure = agree(own);
    }
    if (failure) {
        // A new owner of the run removes what this one writes: then that is the reason. No rank goes on before the
        // folder is gone: the next save may be of the same step, and write into a folder of the same name.
        const std::optional<Failure> lost = agree(failure_of([&] {
            if (world_.rank() != 0) return;
            std::error_code ignored;
            fs::remove_all(flight->folder, ignored);
            lock_->check_held();
        }));
        if (lost) failure = lost;
    }
    SaveOutcome outcome{.step = step,
                        .saved = !failure,
                        .text = failure ? failure->message : store_.folder(step) + note,
                        .seconds = now_seconds() - flight->started};
    if (!failure) {
        newest_step_ = step;
        return outcome;
    }
    ++failures_;
    if (gravity(failure->code) > 0)
        throw Error(failure->code, fmt::format("saving step {}: {}", step, failure->message));
    return outcome;
}

Checkpointer::Candidate Checkpointer::next_candidate(std::vector<int64_t>& steps,
                                                     const std::function<void(const std::string&)>& report) const {
    while (!steps.empty()) {
        const int64_t step = steps.back();
        steps.pop_back();
        uint32_t crc = 0;
        const std::optional<Failure> failure = failure_of([&] {
            read_manifest(store_.folder(step));
            crc = crc_of_file(store_.folder(step) + "/MANIFEST");
        });
        if (!failure) return {step, crc};
        report(failure->message);
    }
    return {-1, 0};
}

// Network file systems may show to other nodes for a while what was there before.
Manifest Checkpointer::wait_for_manifest(const Candidate& candidate) const {
    const std::string folder = store_.folder(candidate.step);
    const auto deadline = std::chrono::steady_clock::now() + options_.visible_within;
    while (true) {
        Manifest manifest;
        const std::optional<Failure> failure = failure_of([&] {
            const uint32_t crc = crc_of_file(folder + "/MANIFEST");
            if (crc != candidate.manifest_crc) fail_io("'{}/MANIFEST' is not the one that rank 0 sees", folder);
            manifest = read_manifest(folder);
        });
        if (!failure) return manifest;
        if (std::chrono::steady_clock::now() > deadline)
            fail_io("still not visible {:.0f} s after rank 0 saw it: {}",
                    std::chrono::duration<double>(options_.visible_within).count(), failure->message);
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
}

std::optional<TrainingState> Checkpointer::load_newest(const std::vector<CheckpointPart>& parts,
                                                       const std::function<void(const std::string&)>& report) {
    std::vector<int64_t> steps;
    throw_agreed(failure_of([&] {
        if (world_.rank() == 0) steps = store_.steps();
    }));
    auto count = static_cast<int64_t>(steps.size());
    world_.broadcast(std::as_writable_bytes(std::span(&count, 1)), 0);
    if (count == 0) return {};
    while (true) {
        Candidate candidate{-1, 0};
        if (world_.rank() == 0) candidate = next_candidate(steps, report);
        world_.broadcast(std::as_writable_bytes(std::span(&candidate, 1)), 0);
        if (candidate.step < 0)
            fail_input("'{}' holds {} checkpoints, none of them whole; --fresh starts again from nothing",
                       store_.root(), count);
        Manifest manifest;
        throw_agreed(failure_of([&] { manifest = wait_for_manifest(candidate); }));
        const std::optional<Failure> failure = agree(failure_of(
            [&] { load_parts(store_.folder(candidate.step), manifest, parts, world_.rank(), world_.size()); }));
        if (!failure) {
            newest_step_ = candidate.step;
            return manifest.state;
        }
        if (failure->code == ExitCode::kInternal) throw Error(failure->code, failure->message);
        if (world_.rank() == 0) report(failure->message);
    }
}

}  // namespace plimsoll
