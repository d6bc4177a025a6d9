# The room dist/, and MPI for it: one of two twin files. Without MPI ranks are threads of one process.
set(PLIMSOLL_MPI auto CACHE STRING "ranks as processes under MPI: auto, on or off")
set_property(CACHE PLIMSOLL_MPI PROPERTY STRINGS auto on off)
if(NOT PLIMSOLL_MPI STREQUAL off)
    find_package(MPI COMPONENTS CXX QUIET)
endif()
if(PLIMSOLL_MPI STREQUAL on AND NOT MPI_CXX_FOUND)
    message(FATAL_ERROR "PLIMSOLL_MPI is on, but CMake finds no MPI; install it (apt-get install libopenmpi-dev openmpi-bin)")
endif()

file(GLOB sources CONFIGURE_DEPENDS dist/*.cpp dist/*/*.cpp)
if(MPI_CXX_FOUND)
    list(FILTER sources EXCLUDE REGEX "mpi_transport_none\\.cpp$")
else()
    list(FILTER sources EXCLUDE REGEX "mpi_transport\\.cpp$")
endif()
find_package(Threads REQUIRED)
# NCCL: a twin too, and what only CUDA builds compile.
if(cuda_enabled)
    find_library(PLIMSOLL_NCCL nccl PATHS ${CUDAToolkit_LIBRARY_DIR} ${PROJECT_SOURCE_DIR}/.deps/cuda/lib)
    find_path(PLIMSOLL_NCCL_INCLUDE nccl.h PATHS ${CUDAToolkit_INCLUDE_DIRS} ${PROJECT_SOURCE_DIR}/.deps/cuda/include)
endif()
if(cuda_enabled AND PLIMSOLL_NCCL AND PLIMSOLL_NCCL_INCLUDE)
    set(nccl_enabled ON)
    list(FILTER sources EXCLUDE REGEX "nccl_transport_none\\.cpp$")
else()
    set(nccl_enabled OFF)
    list(FILTER sources EXCLUDE REGEX "nccl_(library|transport|watch)\\.cpp$")
endif()
add_library(plimsoll_dist STATIC ${sources})
if(nccl_enabled)
    target_include_directories(plimsoll_dist SYSTEM PUBLIC ${PLIMSOLL_NCCL_INCLUDE})
    target_link_libraries(plimsoll_dist PUBLIC ${PLIMSOLL_NCCL})
endif()
target_compile_options(plimsoll_dist PRIVATE -Wall -Wextra)
# Every rank makes the same plan, whatever its CPU: a fused multiply-add would round its scores differently.
file(GLOB cad_sources CONFIGURE_DEPENDS dist/cad/*.cpp)
set_source_files_properties(${cad_sources} PROPERTIES COMPILE_OPTIONS -ffp-contract=off)
target_link_libraries(plimsoll_dist PUBLIC plimsoll_kernels Threads::Threads)
if(MPI_CXX_FOUND)
    # The headers and the library only: flags of MPI's compiler wrapper are not ours.
    target_include_directories(plimsoll_dist SYSTEM PRIVATE ${MPI_CXX_INCLUDE_DIRS})
    target_compile_definitions(plimsoll_dist PRIVATE OMPI_SKIP_MPICXX MPICH_SKIP_MPICXX)
    target_link_libraries(plimsoll_dist PRIVATE ${MPI_CXX_LIBRARIES})
endif()

# Tests with tensors on a device: run on the emulated one, or on a GPU; the last one with NCCL itself, on a GPU only.
set(plimsoll_device_tests tests/dist/device_test.cpp tests/dist/nccl_test.cpp tests/dist/cad_device_test.cpp)
set(plimsoll_nccl_tests tests/dist/nccl_gpu_test.cpp)

# Ranks over TCP: the communicator's cases, faults, whole runs.
function(plimsoll_add_tcp_tests)
    add_executable(dist_tcp_test tests/dist/tcp_main.cpp tests/dist/process_cases.cpp)
    target_include_directories(dist_tcp_test PRIVATE tests)
    target_link_libraries(dist_tcp_test PRIVATE plimsoll_dist GTest::gtest)
    add_test(NAME dist_tcp COMMAND ${PLIMSOLL_PYTHON} tests/python/tcp_check.py $<TARGET_FILE:plimsoll>
        $<TARGET_FILE:dist_tcp_test> WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
    set_tests_properties(dist_tcp PROPERTIES LABELS dist TIMEOUT 180 ENVIRONMENT "OMP_WAIT_POLICY=passive")
endfunction()

# The communicator's cases under mpirun.
function(plimsoll_add_mpi_tests)
    if(nccl_enabled)
        add_executable(dist_gpu_test ${plimsoll_device_tests} ${plimsoll_nccl_tests} tests/support/device_gpu.cpp
            tests/support/fake_nccl.cpp)
        target_include_directories(dist_gpu_test PRIVATE tests)
        target_link_libraries(dist_gpu_test PRIVATE plimsoll_dist GTest::gtest_main)
    endif()
    find_program(PLIMSOLL_MPIRUN mpirun)
    if(NOT MPI_CXX_FOUND OR NOT PLIMSOLL_MPIRUN)
        return()
    endif()
    add_executable(dist_mpi_test tests/dist/mpi_main.cpp tests/dist/process_cases.cpp)
    target_include_directories(dist_mpi_test PRIVATE tests)
    target_link_libraries(dist_mpi_test PRIVATE plimsoll_dist GTest::gtest_main)
    foreach(ranks 1 2 3 4)
        add_test(NAME dist_mpi_${ranks} COMMAND ${PROJECT_SOURCE_DIR}/scripts/mpirun.sh -n ${ranks}
            $<TARGET_FILE:dist_mpi_test> --gtest_brief=1)
        set_tests_properties(dist_mpi_${ranks} PROPERTIES LABELS dist TIMEOUT 120 ENVIRONMENT "OMP_NUM_THREADS=1")
    endforeach()
    # Whole runs of ranks.
    add_test(NAME dist_runs COMMAND ${PLIMSOLL_PYTHON} tests/python/ranks_check.py $<TARGET_FILE:plimsoll>
        WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
    set_tests_properties(dist_runs PROPERTIES LABELS dist TIMEOUT 300 RUN_SERIAL ON)
    add_test(NAME cad_runs COMMAND ${PLIMSOLL_PYTHON} tests/python/cad_check.py $<TARGET_FILE:plimsoll>
        WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
    set_tests_properties(cad_runs PROPERTIES LABELS cad TIMEOUT 300 RUN_SERIAL ON)
endfunction()

# Sources with their tests under ThreadSanitizer: a build of its own, without OpenMP, which reports races that are none.
function(plimsoll_add_tsan_target name)
    add_executable(${name}_tsan_test ${ARGN})
    target_include_directories(${name}_tsan_test PRIVATE ${PROJECT_SOURCE_DIR} tests)
    target_compile_definitions(${name}_tsan_test PRIVATE PLIMSOLL_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
    target_compile_options(${name}_tsan_test PRIVATE -fsanitize=thread -g -O1)
    target_link_options(${name}_tsan_test PRIVATE -fsanitize=thread)
    target_link_libraries(${name}_tsan_test PRIVATE fmt::fmt nlohmann_json::nlohmann_json GTest::gtest_main
        Threads::Threads)
endfunction()

# The threads communicator with what stands on it, ranks over TCP as threads, and the loader.
function(plimsoll_add_tsan_test)
    file(GLOB tcp_sources CONFIGURE_DEPENDS dist/tcp_*.cpp)
    plimsoll_add_tsan_target(dist dist/communicator.cpp dist/gradient_sync.cpp dist/flight_record.cpp
        dist/shard_layout.cpp dist/thread_transport.cpp dist/machine_name.cpp dist/single_transport.cpp dist/staged_transport.cpp
        dist/nccl_transport_none.cpp ${tcp_sources} kernels/tensor.cpp kernels/dispatch_memory.cpp kernels/dispatch_rank_sum.cpp
        kernels/dispatch_trace.cpp kernels/cpu/rank_sum.cpp tests/dist/communicator_test.cpp
        tests/dist/gradient_sync_test.cpp tests/dist/flight_record_test.cpp tests/dist/tcp_test.cpp)
    file(GLOB loader_sources CONFIGURE_DEPENDS data/*.cpp)
    plimsoll_add_tsan_target(data ${loader_sources} tests/data/loader_test.cpp tests/data/permutation_test.cpp)
    foreach(part dist data)
        add_test(NAME ${part}_tsan COMMAND ${part}_tsan_test --gtest_brief=1)
        set_tests_properties(${part}_tsan PROPERTIES LABELS dist TIMEOUT 180
            ENVIRONMENT "TSAN_OPTIONS=halt_on_error=1")
    endforeach()
endfunction()
