// Every instruction of kernels/cuda/native/device.cuh on random input: on a GPU the hardware's answer, in the emulated
// build the emulator's. tests/python/test_checks.py fails when an instruction has no case here.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace plimsoll {

struct ConformanceCase {
    std::string name;  // of the function in device.cuh
    // Words in and out; the launcher runs one block on device memory of these sizes.
    int input_words, output_words;
    void (*launch)(const uint32_t* input, uint32_t* output);
};
const std::vector<ConformanceCase>& conformance_cases();

}  // namespace plimsoll
