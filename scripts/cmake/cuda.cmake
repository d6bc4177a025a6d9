# The CUDA backend: kernels/cuda, compiled by nvcc into plimsoll_kernels.
#
# auto builds it where nvcc and a GPU are present; `on` also without a GPU (a login node), `off` never. Without it the
# dispatchers know no CUDA, and nothing of the toolkit is needed.
set(PLIMSOLL_CUDA auto CACHE STRING "the CUDA backend: auto, on or off")
set_property(CACHE PLIMSOLL_CUDA PROPERTY STRINGS auto on off)
if(NOT PLIMSOLL_CUDA MATCHES "^(auto|on|off)$")
    message(FATAL_ERROR "PLIMSOLL_CUDA is '${PLIMSOLL_CUDA}', wants auto, on or off")
endif()

find_program(PLIMSOLL_NVCC nvcc PATHS /usr/local/cuda/bin ${PROJECT_SOURCE_DIR}/.deps/cuda/bin)
set(cuda_enabled OFF)
if(PLIMSOLL_CUDA STREQUAL on OR (PLIMSOLL_CUDA STREQUAL auto AND PLIMSOLL_NVCC AND EXISTS /dev/nvidia0))
    set(cuda_enabled ON)
endif()

if(cuda_enabled)
    if(NOT PLIMSOLL_NVCC)
        message(FATAL_ERROR "PLIMSOLL_CUDA is on, but there is no nvcc; install the CUDA toolkit")
    endif()
    if(NOT CMAKE_CUDA_COMPILER)
        set(CMAKE_CUDA_COMPILER ${PLIMSOLL_NVCC})
    endif()
    if(NOT CMAKE_CUDA_ARCHITECTURES)
        set(CMAKE_CUDA_ARCHITECTURES 80 90a)
    endif()
    enable_language(CUDA)
    # CMake 3.25 does not know nvcc 13's C++20: no standard from CMake, the flag itself where sources are compiled.
    set(CMAKE_CUDA_STANDARD_DEFAULT "")
    find_package(CUDAToolkit REQUIRED)
    message(STATUS "CUDA backend: toolkit ${CUDAToolkit_VERSION}, architectures ${CMAKE_CUDA_ARCHITECTURES}")
endif()

# What nvcc can check without a GPU; skipped where there is no nvcc.
function(plimsoll_add_cuda_checks python)
    add_test(NAME cuda_checks COMMAND ${python} scripts/cuda_checks.py)
    set_tests_properties(cuda_checks PROPERTIES LABELS cuda TIMEOUT 420 SKIP_RETURN_CODE 77 RUN_SERIAL ON
        WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
    # Which of their lines the emulated tests run: those of this build where it counts, else of a build of its own.
    set(coverage ${python} scripts/cuda_coverage.py --build-dir)
    if(PLIMSOLL_COVERAGE AND TARGET cuda_emulated_test)
        add_test(NAME cuda_coverage_forget COMMAND ${coverage} ${PROJECT_BINARY_DIR} --forget)
        set_tests_properties(cuda_coverage_forget PROPERTIES LABELS emulated FIXTURES_SETUP cuda_counters
            WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
        add_test(NAME cuda_coverage COMMAND ${coverage} ${PROJECT_BINARY_DIR} --read)
        set_tests_properties(cuda_coverage PROPERTIES LABELS cuda TIMEOUT 240 FIXTURES_REQUIRED cuda_counts
            WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
    else()
        add_test(NAME cuda_coverage COMMAND ${coverage} ${PROJECT_BINARY_DIR}/coverage)
        set_tests_properties(cuda_coverage PROPERTIES LABELS cuda TIMEOUT 1200 RUN_SERIAL ON
            WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
    endif()
endfunction()

# The tests of the backend on the GPU itself; without the backend they run on the emulated device instead.
function(plimsoll_add_cuda_tests)
    file(GLOB sources CONFIGURE_DEPENDS tests/cuda/*_test.cpp)
    add_executable(cuda_test ${sources} tests/support/device_gpu.cpp tests/simt/conformance.cu
        tests/simt/hopper_conformance.cu)
    target_include_directories(cuda_test PRIVATE tests)
    target_compile_definitions(cuda_test PRIVATE PLIMSOLL_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
    target_compile_options(cuda_test PRIVATE
        $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20 --expt-relaxed-constexpr --expt-extended-lambda>)
    target_link_libraries(cuda_test PRIVATE plimsoll_train GTest::gtest_main)
    if(EXISTS /dev/nvidia0)
        add_test(NAME cuda_on_gpu COMMAND cuda_test --gtest_brief=1)
        set_tests_properties(cuda_on_gpu PROPERTIES LABELS cuda TIMEOUT 300)
    endif()
endfunction()

# Adds the backend to the kernels.
function(plimsoll_add_cuda)
    if(NOT cuda_enabled)
        return()
    endif()
    file(GLOB sources CONFIGURE_DEPENDS kernels/cuda/*.cu kernels/cuda/*.cpp)
    target_sources(plimsoll_kernels PRIVATE ${sources})
    target_compile_definitions(plimsoll_kernels PUBLIC PLIMSOLL_CUDA)
    target_include_directories(plimsoll_kernels PUBLIC ${PROJECT_SOURCE_DIR}/kernels/cuda/native)
    target_link_libraries(plimsoll_kernels PUBLIC CUDA::cudart CUDA::cublasLt)
    target_compile_options(plimsoll_kernels PRIVATE
        $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20 --expt-relaxed-constexpr --expt-extended-lambda>)
endfunction()
