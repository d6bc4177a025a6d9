// Each instruction of kernels/cuda/native against its description, on random input. Run on a GPU,
// PLIMSOLL_CONFORMANCE_OUT=DIR keeps the hardware's answers; files of that kind under tests/golden/device are what the
// emulator is held to then.
#include "simt/conformance.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "cuda/hopper_expected.h"
#include "support/cuda_test.h"

namespace plimsoll {
namespace {

using Words = std::vector<uint32_t>;

float number(uint32_t word) {
    return std::bit_cast<float>(word);
}
uint32_t word(float value) {
    return std::bit_cast<uint32_t>(value);
}
uint32_t half(const Words& words, size_t index) {
    return words[index / 2] >> 16 * (index % 2) & 0xffffu;
}
float bf16_number(uint32_t bits) {
    return number(bits << 16);
}

// Those that this device has.
std::vector<ConformanceCase> all_cases() {
    std::vector<ConformanceCase> all = conformance_cases();
    if (test_context().architecture() == 90) append(all, hopper_conformance_cases());
    return all;
}

// Numbers for arithmetic, bf16 pairs for operands of mma, any bits for moves.
Words random_input(const ConformanceCase& c) {
    const RandomStream stream(17, "conformance", c.name);
    Words input;
    for (size_t i = 0; i < static_cast<size_t>(c.input_words); ++i) {
        const bool operand =
            (c.name == "mma_m16n8k16" && i < 192) || c.name.starts_with("wgmma") || c.name.starts_with("tma_store");
        const auto normal = [&](uint64_t at) { return static_cast<float>(4 * stream.normal(at)); };
        if (operand)
            input.push_back(bf16(normal(2 * i)).bits | uint32_t{bf16(normal(2 * i + 1)).bits} << 16);
        else if (c.name.find("approx") != std::string::npos || c.name == "pack_bf16" || c.name == "mma_m16n8k16")
            input.push_back(word(normal(i)));
        else
            input.push_back(static_cast<uint32_t>(stream.bits64(i)));
    }
    return input;
}

struct Expected {
    Words words;               // exact, where there is no tolerance
    std::vector<double> near;  // else: the value
    double relative = 0, absolute = 0;
};

Expected unary(const Words& in, double (*f)(double), double relative, double absolute) {
    Expected e{.relative = relative, .absolute = absolute};
    for (const uint32_t w : in) e.near.push_back(f(number(w)));
    return e;
}

// Written from the PTX ISA once more, element by element, sharing nothing with the emulator.
Expected expected(const ConformanceCase& c, const Words& in) {
    Expected e;
    if (c.name == "exp2_approx")
        return unary(
            in, [](double x) { return std::exp2(x); }, 3e-7, 0);
    if (c.name == "log2_approx")
        return unary(
            in, [](double x) { return std::log2(std::abs(x)); }, 3e-7, 3e-7);
    if (c.name == "rcp_approx")
        return unary(
            in, [](double x) { return 1 / x; }, 2e-7, 0);
    if (c.name == "pack_bf16") {
        for (size_t i = 0; i < in.size(); i += 2)
            e.words.push_back(bf16(number(in[i])).bits | uint32_t{bf16(number(in[i + 1])).bits} << 16);
    } else if (c.name.starts_with("ldmatrix")) {
        const bool transposed = c.name.ends_with("trans");
        for (size_t lane = 0; lane < 32; ++lane)
            for (size_t m = 0; m < 4; ++m) {
                const auto element = [&](size_t row, size_t column) { return half(in, 64 * m + 8 * row + column); };
                const size_t r = lane / 4, k = 2 * (lane % 4);
                e.words.push_back(transposed ? element(k, r) | element(k + 1, r) << 16
                                             : element(r, k) | element(r, k + 1) << 16);
            }
    } else if (c.name == "mma_m16n8k16") {
        // 16 products of numbers of size 16, in any order: the error is that of the largest.
        e.absolute = 1e-4;
        for (size_t lane = 0; lane < 32; ++lane)
            for (size_t i = 0; i < 4; ++i) {
                const size_t row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
                double sum = number(in[192 + 4 * lane + i]);
                for (size_t k = 0; k < 16; ++k) {
                    const size_t lane_a = row % 8 * 4 + k % 8 / 2, word_a = row / 8 + 2 * (k / 8);
                    const size_t lane_b = column * 4 + k % 8 / 2, word_b = k / 8;
                    sum += static_cast<double>(bf16_number(half(in, 2 * (4 * lane_a + word_a) + k % 2))) *
                           bf16_number(half(in, 2 * (128 + 2 * lane_b + word_b) + k % 2));
                }
                e.near.push_back(sum);
            }
    } else if (c.name.starts_with("wgmma")) {
        // Up to 128 products of size 16, partial sums of a few hundred: 24 bits of them, less what hardware truncates.
        e.absolute = 2e-3;
        e.near = expected_product(in, static_cast<size_t>(c.shape[0]), static_cast<size_t>(c.shape[1]));
    } else if (c.name.starts_with("tma_load")) {
        e.words = expected_load(in, c.shape[0]);
    } else if (c.name.starts_with("tma_store")) {
        e.words = expected_store(in, c.shape[0]);
    } else if (c.name.starts_with("increase_registers")) {
        for (const uint32_t word : in) e.words.push_back(word + 1);
    } else if (c.name.starts_with("cp_async")) {
        for (size_t lane = 0; lane < 32; ++lane)
            for (size_t i = 0; i < 8; ++i) {
                const size_t from = lane ^ 1;
                e.words.push_back(i < 4 ? in[4 * from + i] : from % 3 ? in[128 + 4 * from + i - 4] : 0);
            }
    } else if (c.name.starts_with("named_barrier")) {
        for (size_t lane = 0; lane < 32; ++lane) e.words.push_back(in[31 - lane] * 3);
    } else {
        ADD_FAILURE() << c.name << ": conformance_test.cpp does not say what it should give";
    }
    return e;
}

void compare(const Expected& wanted, const Words& seen) {
    ASSERT_EQ(seen.size(), wanted.words.empty() ? wanted.near.size() : wanted.words.size());
    for (size_t i = 0; i < seen.size(); ++i) {
        if (!wanted.words.empty())
            ASSERT_EQ(seen[i], wanted.words[i]) << i;
        else
            ASSERT_NEAR(number(seen[i]), wanted.near[i], wanted.absolute + wanted.relative * std::abs(wanted.near[i]))
                << i;
    }
}

std::string file_name(const ConformanceCase& c) {
    return c.name.substr(0, c.name.find(' ')) + (c.what.empty() ? "" : "." + c.what) + ".bin";
}

Words run(const ConformanceCase& c, const Words& input) {
    // Device memory holds int32: the same bits.
    const OnDevice<int32_t> in(std::vector<int32_t>(input.begin(), input.end())),
        out(std::vector<int32_t>(static_cast<size_t>(c.output_words), -1));
    c.launch(reinterpret_cast<const uint32_t*>(in.data()), reinterpret_cast<uint32_t*>(out.data()));
    cuda::check_cuda(cudaDeviceSynchronize(), c.name.c_str());
    const std::vector<int32_t> values = out.values();
    return Words(values.begin(), values.end());
}

TEST(CudaConformance, EveryInstructionDoesWhatItsDescriptionSays) {
    const char* folder = std::getenv("PLIMSOLL_CONFORMANCE_OUT");
    for (const ConformanceCase& c : all_cases()) {
        SCOPED_TRACE(c.name + " " + c.what);
        const Words input = random_input(c);
        for (int seed = 1; seed <= kSchedules; ++seed) {
            set_schedule(seed);
            const Words output = run(c, input);
            compare(expected(c, input), output);
            for (const std::string& report : device_reports()) ADD_FAILURE() << report;
            if (!folder || seed > 1) continue;
            std::ofstream file(std::filesystem::path(folder) / file_name(c), std::ios::binary);
            file.write(reinterpret_cast<const char*>(output.data()), static_cast<std::streamsize>(4 * output.size()));
            EXPECT_TRUE(file.good()) << folder;
        }
    }
}

// Answers kept from a GPU, if there are any: moves to the bit, arithmetic to the same tolerance.
TEST(CudaConformance, TheEmulatorAgreesWithKeptAnswers) {
    for (const ConformanceCase& c : all_cases()) {
        const auto path = std::filesystem::path(PLIMSOLL_SOURCE_DIR) / "tests/golden/device" / file_name(c);
        std::ifstream file(path, std::ios::binary);
        if (!file) continue;
        SCOPED_TRACE(path.string());
        Words kept(static_cast<size_t>(c.output_words));
        file.read(reinterpret_cast<char*>(kept.data()), static_cast<std::streamsize>(4 * kept.size()));
        ASSERT_TRUE(file.good());
        const Words input = random_input(c), seen = run(c, input);
        Expected wanted = expected(c, input);
        if (wanted.words.empty())
            for (size_t i = 0; i < kept.size(); ++i) wanted.near[i] = number(kept[i]);
        else
            wanted.words = kept;
        compare(wanted, seen);
    }
}

}  // namespace
}  // namespace plimsoll
