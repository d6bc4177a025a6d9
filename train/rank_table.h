// Which rank runs where, on what; and whether two of them run on one device by mistake.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "dist/communicator.h"
#include "train/config.h"
#include "train/device.h"

namespace plimsoll {

// Text that travels in a message of one size, cut where it is longer.
class ShortText {
  public:
    ShortText() = default;
    ShortText(std::string_view text) { text.copy(text_.data(), text_.size() - 1); }
    ShortText(const std::string& text) : ShortText(std::string_view(text)) {}
    ShortText(const char* text) : ShortText(std::string_view(text)) {}
    std::string_view text() const { return text_.data(); }

  private:
    std::array<char, 192> text_{};
};

struct RankInfo {
    int32_t local_rank = 0;  // among the ranks of its machine
    int64_t pid = 0;
    ShortText host;
    ShortText device;     // "NVIDIA H200, sm_90, 132 multiprocessors at 0000:65:00.0", "cpu, cores 0-7"
    ShortText device_id;  // what no other rank should use, equal for nothing else anywhere; empty: nothing
    ShortText assigned;   // CUDA_VISIBLE_DEVICES, empty without
};

// "node1, local rank 0, cpu, cores 0-7, pid 4711"
std::string line_of(const RankInfo& rank);

// The entry of CUDA_VISIBLE_DEVICES that is a rank's: the only one, or that of its local rank, counting around. Empty
// where the list names no device.
std::string_view visible_entry(std::string_view list, int local_rank);

// Cores as "0-3,8".
std::string ranges_of(std::span<const int> cores);

// Which ranks use one device, and what to do about it; empty if every rank has its own.
std::string find_shared_devices(std::span<const RankInfo> ranks);

// Where this rank stands among those of its machine: as its launcher says, or counted. Every rank takes part.
int local_rank_of(Communicator& world, std::optional<int> by_launcher);

// Every rank's, in rank order. Throws Error (78) if two use one device and parallel.share_devices does not allow it.
// Where no GPU is used although run.device is not "cpu" and Slurm has assigned some, by CUDA_VISIBLE_DEVICES, the
// assigned ones must differ. Every rank takes part.
std::vector<RankInfo> gather_rank_table(Communicator& world, const RunDevice& device, const RunConfig& config,
                                        int local_rank);

}  // namespace plimsoll
