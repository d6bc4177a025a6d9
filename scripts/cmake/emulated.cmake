# CUDA sources on the emulated device (tests/support/simt): compiled by the host's compiler, with the emulator's headers
# in the place of the toolkit's. Needs neither nvcc nor a GPU.

file(GLOB simt_sources CONFIGURE_DEPENDS tests/support/simt/*.cpp)
add_library(plimsoll_simt STATIC ${simt_sources})
target_include_directories(plimsoll_simt PUBLIC tests/support tests/support/simt/include)
target_compile_options(plimsoll_simt PRIVATE -Wall -Wextra)
target_link_libraries(plimsoll_simt PUBLIC ${CMAKE_DL_LIBS})

# An object library of .cu files as C++. -fsanitize=thread makes them call the detector at every access; libtsan is not
# linked, the emulator has those functions (tests/support/simt/hooks.cpp).
function(plimsoll_emulated_objects name)
    set_source_files_properties(${ARGN} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-x;c++")
    add_library(${name} OBJECT ${ARGN})
    target_include_directories(${name} PUBLIC ${PROJECT_SOURCE_DIR} tests)
    target_compile_options(${name} PRIVATE -Wall -Wextra -Wno-unknown-pragmas -g -fsanitize=thread)
    target_link_libraries(${name} PUBLIC plimsoll_simt plimsoll_kernels)
endfunction()

plimsoll_emulated_objects(plimsoll_planted_bugs tests/simt/planted_bugs.cu tests/simt/hopper_bugs.cu)
add_executable(simt_test tests/simt/emulator_test.cpp tests/simt/hopper_test.cpp tests/simt/main.cpp
    tests/support/tensor_map_emulated.cpp $<TARGET_OBJECTS:plimsoll_planted_bugs>)
target_include_directories(simt_test PRIVATE tests)
target_link_libraries(simt_test PRIVATE plimsoll_simt plimsoll_kernels GTest::gtest)

# The CUDA backend: its kernels, and the dispatchers compiled with it. They are linked before plimsoll_kernels, whose own
# dispatchers then stay in their archive.
file(GLOB cuda_kernels CONFIGURE_DEPENDS kernels/cuda/*.cu)
file(GLOB dispatchers CONFIGURE_DEPENDS kernels/dispatch*.cpp)
plimsoll_emulated_objects(plimsoll_cuda_kernels_emulated ${cuda_kernels} tests/simt/conformance.cu
    tests/simt/hopper_conformance.cu)
add_library(plimsoll_cuda_emulated OBJECT ${dispatchers} kernels/cuda/context.cpp tests/support/reference_gemm.cpp
    tests/support/tensor_map_emulated.cpp)
target_compile_definitions(plimsoll_cuda_emulated PUBLIC PLIMSOLL_CUDA)
target_compile_options(plimsoll_cuda_emulated PRIVATE -Wall -Wextra)
target_link_libraries(plimsoll_cuda_emulated PUBLIC plimsoll_simt plimsoll_kernels)

file(GLOB cuda_tests CONFIGURE_DEPENDS tests/cuda/*_test.cpp)
add_executable(cuda_emulated_test ${cuda_tests} tests/simt/context_test.cpp tests/simt/launches_test.cpp
    tests/simt/memory_plan_test.cpp tests/simt/optimizer_test.cpp tests/simt/main.cpp tests/support/device_emulated.cpp
    $<TARGET_OBJECTS:plimsoll_cuda_kernels_emulated> $<TARGET_OBJECTS:plimsoll_cuda_emulated>)
target_include_directories(cuda_emulated_test PRIVATE tests)
target_compile_definitions(cuda_emulated_test PRIVATE PLIMSOLL_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
target_link_libraries(cuda_emulated_test PRIVATE plimsoll_train plimsoll_simt GTest::gtest)
# Ranks as threads whose tensors lie on it, and NCCL with the emulator's header and a library of the test.
add_executable(dist_device_test ${plimsoll_device_tests} tests/simt/ranks_test.cpp tests/simt/main.cpp
    tests/support/device_emulated.cpp tests/support/fake_nccl.cpp dist/nccl_transport.cpp dist/nccl_watch.cpp
    $<TARGET_OBJECTS:plimsoll_cuda_kernels_emulated> $<TARGET_OBJECTS:plimsoll_cuda_emulated>)
target_include_directories(dist_device_test PRIVATE tests)
target_compile_definitions(dist_device_test PRIVATE PLIMSOLL_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
set_source_files_properties(dist/nccl_transport.cpp dist/nccl_watch.cpp PROPERTIES COMPILE_OPTIONS "-Wall;-Wextra")
target_link_libraries(dist_device_test PRIVATE plimsoll_dist plimsoll_simt GTest::gtest)
# gcov counts which lines run, for scripts/cuda_coverage.py; 40 % slower. Not atomic: where ranks are threads an
# increment may be lost, but no line that ran counts 0. Processes add to one file of counts in turn, under its lock.
option(PLIMSOLL_COVERAGE "count the lines of the CUDA sources that the emulated tests run" OFF)
if(PLIMSOLL_COVERAGE)
    target_compile_options(plimsoll_cuda_kernels_emulated PRIVATE --coverage -fprofile-update=single)
    target_compile_options(plimsoll_cuda_emulated PRIVATE --coverage -fprofile-update=single)
    target_link_options(cuda_emulated_test PRIVATE --coverage)
    target_link_options(dist_device_test PRIVATE --coverage)
endif()

function(plimsoll_emulated_test name program filter)
    add_test(NAME ${name} COMMAND ${program} --gtest_filter=${filter} --gtest_brief=1)
    set_tests_properties(${name} PROPERTIES LABELS emulated TIMEOUT 360 ENVIRONMENT OMP_WAIT_POLICY=passive)
endfunction()
plimsoll_emulated_test(emulator simt_test "*")
# Two halves each, for two cores.
foreach(half 0 1)
    plimsoll_emulated_test(emulated_attention_${half} cuda_emulated_test "*CudaAttention*")
    plimsoll_emulated_test(emulated_kernels_${half} cuda_emulated_test "-*CudaAttention*")
    set_property(TEST emulated_attention_${half} emulated_kernels_${half} APPEND PROPERTY
        ENVIRONMENT "GTEST_TOTAL_SHARDS=2;GTEST_SHARD_INDEX=${half}")
endforeach()
plimsoll_emulated_test(emulated_ranks dist_device_test "*")
# The test cuda_coverage (cuda.cmake) wants all who count, and they want that earlier counts are forgotten.
if(PLIMSOLL_COVERAGE)
    set_tests_properties(emulated_attention_0 emulated_attention_1 emulated_kernels_0 emulated_kernels_1 emulated_ranks
        PROPERTIES TIMEOUT 900 FIXTURES_REQUIRED cuda_counters FIXTURES_SETUP cuda_counts)
endif()
