// Every instruction of kernels/cuda/native on random input: on a GPU the hardware's answer, in the emulated
// build the emulator's. tests/python/test_checks.py fails when an instruction has no case here.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace plimsoll {

struct ConformanceCase {
    std::string name;  // of the function, or functions
    // Words in and out; the launcher runs one block on device memory of these sizes.
    int input_words, output_words;
    void (*launch)(const uint32_t* input, uint32_t* output);
    int architecture = 80;       // that has the instruction
    std::array<int, 2> shape{};  // of what is computed, where there are several
    std::string what{};          // then also in the name of its file
};
const std::vector<ConformanceCase>& conformance_cases();         // of device.cuh
const std::vector<ConformanceCase>& hopper_conformance_cases();  // of hopper.cuh

}  // namespace plimsoll
