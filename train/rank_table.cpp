#include "train/rank_table.h"

#include <fmt/ranges.h>
#include <sched.h>
#include <unistd.h>

#include <cstdlib>
#include <map>

#include "dist/machine_name.h"
#include "kernels/error.h"

namespace plimsoll {
namespace {

std::string own_cores() {
    cpu_set_t set;
    std::vector<int> cores;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        for (int core = 0; core < CPU_SETSIZE; ++core)
            if (CPU_ISSET(core, &set)) cores.push_back(core);
    return ranges_of(cores);
}

RankInfo own_info(const RunDevice& device, const std::string& choice, int local_rank) {
    const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
    RankInfo own;
    own.local_rank = local_rank;
    own.pid = getpid();
    own.host = host_name();
    own.assigned = visible ? visible : "";
    if (device.is_gpu()) {
        own.device = fmt::format("{} at {}", device.describe(), device.address());
        own.device_id = boot_id() + " " + device.address();  // hosts of several names may share a machine, and its GPUs
        return own;
    }
    own.device = "cpu, cores " + own_cores();
    const std::string entry(visible_entry(visible ? visible : "", local_rank));
    if (choice != "cpu" && std::getenv("SLURM_JOB_ID") && !entry.empty())
        own.device_id = fmt::format("{} {}", machine_name(), entry);
    return own;
}

}  // namespace

std::string line_of(const RankInfo& rank) {
    const std::string assigned =
        rank.assigned.text().empty() ? "" : fmt::format(", CUDA_VISIBLE_DEVICES={}", brief(rank.assigned.text()));
    return fmt::format("{}, local rank {}, {}{}, pid {}", rank.host.text(), rank.local_rank, rank.device.text(),
                       assigned, rank.pid);
}

std::string_view visible_entry(std::string_view list, int local_rank) {
    std::vector<std::string_view> entries;
    while (!list.empty()) {
        const size_t comma = std::min(list.find(','), list.size());
        const std::string_view entry = list.substr(0, comma);
        // As CUDA reads it: nothing after the first that names no device.
        if (entry.empty() || entry.starts_with('-') || entry == "NoDevFiles") break;
        entries.push_back(entry);
        list.remove_prefix(std::min(comma + 1, list.size()));
    }
    return entries.empty() ? "" : entries[static_cast<size_t>(local_rank) % entries.size()];
}

std::string ranges_of(std::span<const int> cores) {
    std::string text;
    for (size_t i = 0; i < cores.size();) {
        size_t last = i;
        while (last + 1 < cores.size() && cores[last + 1] == cores[last] + 1) ++last;
        text += text.empty() ? "" : ",";
        text += last > i ? fmt::format("{}-{}", cores[i], cores[last]) : fmt::format("{}", cores[i]);
        i = last + 1;
    }
    return text;
}

std::string find_shared_devices(std::span<const RankInfo> ranks) {
    std::map<std::string_view, std::vector<size_t>> users;
    for (size_t r = 0; r < ranks.size(); ++r)
        if (!ranks[r].device_id.text().empty()) users[ranks[r].device_id.text()].push_back(r);
    constexpr size_t kShown = 4;
    size_t shared = 0;
    std::string text;
    for (const auto& [id, who] : users) {
        if (who.size() < 2 || ++shared > kShown) continue;
        const RankInfo& first = ranks[who.front()];
        text += fmt::format("{}ranks {} use the same device of {} (device {}; {}{})", shared > 1 ? "; " : "",
                            fmt::join(who, ", "), first.host.text(), id.substr(id.rfind(' ') + 1), first.device.text(),
                            first.assigned.text().empty()
                                ? ""
                                : fmt::format("; CUDA_VISIBLE_DEVICES={}", brief(first.assigned.text())));
    }
    if (!shared) return "";
    if (shared > kShown) text += fmt::format("; and {} more devices are shared", shared - kShown);
    return text +
           ". Give every rank a GPU of its own (srun --gpus-per-task=1, or CUDA_VISIBLE_DEVICES), start fewer ranks, "
           "or "
           "set run.device = \"cpu\", or parallel.share_devices = true";
}

int local_rank_of(Communicator& world, std::optional<int> by_launcher) {
    const int counted = world.rank_on_machine();
    return by_launcher.value_or(counted);
}

std::vector<RankInfo> gather_rank_table(Communicator& world, const RunDevice& device, const RunConfig& config,
                                        int local_rank) {
    std::vector<RankInfo> ranks = world.gather_each(own_info(device, config.run.device, local_rank));
    if (const std::string problem = find_shared_devices(ranks); !problem.empty() && !config.parallel.share_devices)
        fail_input("{}", problem);
    return ranks;
}

}  // namespace plimsoll
