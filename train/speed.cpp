#include "train/speed.h"

#include <string_view>

#include "kernels/gpu.h"
#include "kernels/matmul.h"
#include "kernels/memory.h"
#include "kernels/residual.h"
#include "train/timing.h"

namespace plimsoll {
namespace {

struct Card {
    std::string_view part;  // of the driver's name; the first that matches counts
    double tflops;
};

// Data sheets: dense bf16 with fp32 accumulation.
constexpr Card kCards[] = {
    {"GB200", 2500},      {"B200", 2250},      {"GH200", 989.4},
    {"H200 NVL", 835.5},  {"H200", 989.4},     {"H100 PCIe", 756},
    {"H100 NVL", 835.5},  {"H100", 989.4},     {"H800 PCIe", 756},
    {"H800", 989.4},      {"H20", 148},        {"A100", 312},
    {"A800", 312},        {"A30", 165},        {"A40", 149.7},
    {"A10G", 70},         {"A10", 125},        {"L40S", 362},
    {"L40", 181},         {"L4", 121},         {"RTX 6000 Ada", 364.2},
    {"RTX A6000", 154.8}, {"RTX 5090", 209.5}, {"RTX 4090", 165.2},
    {"RTX 3090", 71},
};

// Noise: a matrix of zeros takes less power to multiply, and so less time.
Memory noise(DType dtype, int64_t count, const Exec& exec) {
    const Exec host{.threads = exec.threads};
    const Shape shape{count};
    const Memory wide = allocate_memory(Device::kCpu, count * size_of(DType::kF32), "speed of products");
    Memory values = allocate_memory(Device::kCpu, count * size_of(dtype), "speed of products");
    const Tensor exact(wide.get(), DType::kF32, shape), rounded(values.get(), dtype, shape);
    uint32_t state = 1;
    for (float& value : exact.span<float>()) {
        state = state * 1664525u + 1013904223u;
        value = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f;
    }
    convert(rounded.reshape({1, count}), exact.reshape({1, count}), host);
    if (exec.device == Device::kCpu) return values;
    Memory there = allocate_memory(exec.device, count * size_of(dtype), "speed of products");
    copy_tensor(Tensor(there.get(), dtype, shape, exec.device), rounded, exec);
    return there;
}

}  // namespace

std::optional<double> card_tflops(const std::string& name) {
    for (const Card& card : kCards)
        if (name.find(card.part) != std::string::npos) return card.tflops;
    return {};
}

double matmul_flops_per_second(DType dtype, int64_t M, int64_t N, int64_t K, const Exec& exec) {
    const Memory x = noise(dtype, M * K, exec), weight = noise(dtype, N * K, exec),
                 out = allocate_memory(exec.device, M * N * size_of(dtype), "speed of products");
    const auto multiply = [&] {
        matmul_forward(Tensor(out.get(), dtype, {M, N}, exec.device), Tensor(x.get(), dtype, {M, K}, exec.device),
                       Tensor(weight.get(), dtype, {N, K}, exec.device), {}, exec);
    };
    return 2.0 * static_cast<double>(M) * static_cast<double>(N) * static_cast<double>(K) /
           best_seconds(multiply, 5, exec);
}

SpeedOfLight::SpeedOfLight(const Exec& exec) : gpu_(exec.device == Device::kCuda) {
    if (gpu_) card_ = card_tflops(describe_gpu(*exec.cuda));
}

void SpeedOfLight::measure(DType compute, const Exec& exec) {
    constexpr int64_t kSize = 8192;  // large enough for every card in the table
    if (gpu_) measured_ = 1e-12 * matmul_flops_per_second(compute, kSize, kSize, kSize, exec);
}

std::string SpeedOfLight::describe() const {
    if (!gpu_) return {};
    const std::string card = card_ ? fmt::format("{:.0f} TFLOP/s by the data sheet", *card_) : "card not in the table";
    if (!measured_) return card;
    const std::string share = card_ ? fmt::format(" ({:.0f} %)", 100 * *measured_ / *card_) : "";
    return fmt::format("{}, {:.0f} TFLOP/s measured{}", card, *measured_, share);
}

std::string SpeedOfLight::utilization(double flops_per_second) const {
    if (!gpu_) return {};
    if (card_) return fmt::format("{:.1f} % MFU", 1e-10 * flops_per_second / *card_);
    return fmt::format("n/a MFU, {:.1f} TFLOP/s", 1e-12 * flops_per_second);
}

}  // namespace plimsoll
