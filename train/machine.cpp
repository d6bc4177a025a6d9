#include "train/machine.h"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string_view>

#include "build_info.inc"
#include "kernels/matmul.h"

namespace plimsoll {
namespace {

// The value of "key: value" or "key : value" in a text file under /proc; empty if absent.
std::string proc_value(const char* path, std::string_view key) {
    std::ifstream in(path);
    for (std::string line; std::getline(in, line);) {
        const size_t colon = line.find(':');
        if (colon == std::string::npos || !line.starts_with(key)) continue;
        const size_t begin = line.find_first_not_of(" \t", colon + 1);
        return begin == std::string::npos ? "" : line.substr(begin);
    }
    return {};
}

// This cgroup's limit less what it cannot give back; -1 without a limit. Cached files count as free.
int64_t cgroup_memory() {
    int64_t limit = -1, used = 0;
    if (!(std::ifstream("/sys/fs/cgroup/memory.max") >> limit)) return -1;
    std::ifstream stat("/sys/fs/cgroup/memory.stat");
    std::string key;
    for (int64_t value; stat >> key >> value;)
        if (key == "anon" || key == "shmem" || key == "slab_unreclaimable") used += value;
    return limit - used;
}

// What `ulimit -v` leaves this process.
int64_t address_space_left() {
    rlimit limit{};
    if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return INT64_MAX;
    int64_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    return std::max<int64_t>(0, static_cast<int64_t>(limit.rlim_cur) - pages * sysconf(_SC_PAGESIZE));
}

}  // namespace

std::string cpu_name() {
    const std::string name = proc_value("/proc/cpuinfo", "model name");
    return name.empty() ? "unknown CPU" : name;
}

int threads_of(int64_t wanted) {
    return wanted ? static_cast<int>(wanted) : usable_threads();
}

int usable_threads() {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
    return static_cast<int>(std::max(1l, sysconf(_SC_NPROCESSORS_ONLN)));
}

int64_t available_memory() {
    int64_t available = 0;
    std::istringstream(proc_value("/proc/meminfo", "MemAvailable")) >> available;
    available *= 1024;
    const int64_t limit = cgroup_memory();
    if (limit >= 0) available = std::min(available, limit);
    return std::min(available, address_space_left());
}

std::string cpu_features() {
    std::istringstream flags(proc_value("/proc/cpuinfo", "flags"));
    std::string out;
    for (std::string flag; flags >> flag;)
        for (const char* known : {"avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16"})
            if (flag == known) out += (out.empty() ? "" : " ") + flag;
    return out.empty() ? "none of avx2, avx512f, avx512_bf16, amx_bf16" : out;
}

nlohmann::json build_info() {
    return {{"version", PLIMSOLL_VERSION}, {"commit", kCommit}, {"type", kBuildType},
            {"compiler", kCompiler},       {"native", kNative}, {"gemm", matmul_backend()}};
}

std::string version_text() {
    return fmt::format("{} ({}, {}, {}{}, {})", PLIMSOLL_VERSION, kCommit, kCompiler, kBuildType,
                       kNative ? ", -march=native" : "", matmul_backend());
}

DType compute_dtype(const std::string& precision, Device device) {
    if (precision == "auto") return device == Device::kCuda || matmul_bf16_is_fast() ? DType::kBF16 : DType::kF32;
    if (precision == "fp64" && device != Device::kCpu)
        fail_input("run.precision = \"fp64\" is for comparing and runs on the CPU only; set run.device = \"cpu\"");
    return precision == "bf16" ? DType::kBF16 : precision == "fp64" ? DType::kF64 : DType::kF32;
}

}  // namespace plimsoll
