#include <gtest/gtest.h>

#include <cstdio>

#include "simt/machine.h"

// Like gtest's, and a line about what was checked: a detector that sees nothing must be visible.
int main(int argc, char** argv) {
    testing::InitGoogleTest(&argc, argv);
    const int status = RUN_ALL_TESTS();
    if (simt::statistics().launches) std::printf("%s\n", simt::statistics().to_string().c_str());
    return status;
}
