#include "train/roofline.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

namespace plimsoll {

const char* name_of(Bound bound) {
    switch (bound) {
        case Bound::kProducts:
            return "products";
        case Bound::kArithmetic:
            return "arithmetic";
        case Bound::kMemory:
            return "memory";
    }
    return "";
}

double Roofline::in_ops() const {
    double sum = 0;
    for (const RooflineRow& row : rows) sum += row.op.seconds;
    return sum;
}

Roofline make_roofline(const StepProfile& profile, const Ceilings& ceilings) {
    Roofline step;
    step.seconds = profile.seconds;
    for (const OpTime& op : profile.ops) {
        const std::array<double, 3> floors{op.work.products / ceilings.products(op.work.bf16),
                                           op.work.others / ceilings.fp32, op.work.bytes / ceilings.memory()};
        const auto slowest = std::ranges::max_element(floors);
        step.rows.push_back({op, static_cast<Bound>(slowest - floors.begin()), *slowest});
        step.floor += *slowest;
    }
    return step;
}

std::string table(const Roofline& step) {
    const auto percent = [&](double seconds) { return 100 * seconds / step.seconds; };
    std::string text =
        "| op | calls | ms | % of step | GFLOP | MB | GFLOP/s | GB/s | FLOP/byte | bound by | % of it |\n"
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---|---:|\n";
    OpWork all;
    for (const RooflineRow& row : step.rows) {
        all += row.op.work;
        text +=
            fmt::format("| {} | {} | {:.3f} | {:.1f} | {:.3f} | {:.1f} | {:.0f} | {:.1f} | {:.1f} | {} | {:.0f} |\n",
                        row.op.path, row.op.calls, 1e3 * row.op.seconds, percent(row.op.seconds), 1e-9 * row.flops(),
                        1e-6 * row.op.work.bytes, 1e-9 * row.flops_per_second(), 1e-9 * row.bytes_per_second(),
                        row.intensity(), name_of(row.bound), 100 * row.share());
    }
    const double between = step.seconds - step.in_ops(), flops = all.products + all.others;
    text += fmt::format("| between ops | | {:.3f} | {:.1f} | | | | | | | |\n", 1e3 * between, percent(between));
    text += fmt::format("| whole step | | {:.3f} | 100 | {:.3f} | {:.1f} | {:.0f} | {:.1f} | {:.1f} | | {:.0f} |\n",
                        1e3 * step.seconds, 1e-9 * flops, 1e-6 * all.bytes, 1e-9 * flops / step.seconds,
                        1e-9 * all.bytes / step.seconds, flops / all.bytes, percent(step.floor));
    text +=
        fmt::format("\n{:.1f} % of the step's time is in ops. With every op at its ceiling it would take {:.1f} ms.\n",
                    100 * step.accounted(), 1e3 * step.floor);
    return text;
}

nlohmann::json to_json(const Roofline& step) {
    nlohmann::json rows = nlohmann::json::array();
    for (const RooflineRow& row : step.rows)
        rows.push_back({{"path", row.op.path},
                        {"calls", row.op.calls},
                        {"ms", 1e3 * row.op.seconds},
                        {"product_flops", row.op.work.products},
                        {"other_flops", row.op.work.others},
                        {"bytes", row.op.work.bytes},
                        {"flops_per_second", row.flops_per_second()},
                        {"bytes_per_second", row.bytes_per_second()},
                        {"flops_per_byte", row.intensity()},
                        {"bound", name_of(row.bound)},
                        {"share_of_ceiling", row.share()}});
    return {{"ms", 1e3 * step.seconds},
            {"ms_in_ops", 1e3 * step.in_ops()},
            {"ms_between_ops", 1e3 * (step.seconds - step.in_ops())},
            {"ms_at_ceilings", 1e3 * step.floor},
            {"accounted", step.accounted()},
            {"ops", std::move(rows)}};
}

std::string describe(const Ceilings& ceilings) {
    const std::string bf16 = ceilings.bf16_products > 0
                                 ? fmt::format("{:.2f} TFLOP/s bf16 products, ", 1e-12 * ceilings.bf16_products)
                                 : "bf16 as fp32, ";
    return fmt::format(
        "measured ceilings: {}{:.3f} TFLOP/s fp32 multiply-adds, memory {:.1f} GB/s read, {:.1f} GB/s triad", bf16,
        1e-12 * ceilings.fp32, 1e-9 * ceilings.read, 1e-9 * ceilings.triad);
}

nlohmann::json to_json(const Ceilings& ceilings) {
    return {{"bf16_product_flops_per_second", ceilings.bf16_products},
            {"fp32_flops_per_second", ceilings.fp32},
            {"read_bytes_per_second", ceilings.read},
            {"triad_bytes_per_second", ceilings.triad}};
}

}  // namespace plimsoll
