# AMX tiles: compiled for every x86-64 CPU by compilers that know them, used where the CPU that runs has them.
include(CheckCXXSourceCompiles)
set(PLIMSOLL_AMX_FLAGS -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512bf16 -mamx-tile -mamx-bf16)
string(REPLACE ";" " " CMAKE_REQUIRED_FLAGS "${PLIMSOLL_AMX_FLAGS}")
check_cxx_source_compiles("#include <immintrin.h>
    int main() { return sizeof(__m512bh) == 64 ? 0 : 1; }" PLIMSOLL_HAS_AMX)
unset(CMAKE_REQUIRED_FLAGS)
if(CMAKE_SYSTEM_NAME STREQUAL Linux AND PLIMSOLL_HAS_AMX)
    set(compiled_for_amx kernels/cpu/amx/tiles.cpp kernels/cpu/amx/blocks.cpp kernels/cpu/amx/activations.cpp
        kernels/cpu/amx/adam_rows.cpp kernels/cpu/amx/attention_rows.cpp kernels/cpu/amx/cross_entropy_rows.cpp
        kernels/cpu/amx/gate_rows.cpp kernels/cpu/amx/head_rows.cpp kernels/cpu/amx/norm_rows.cpp
        kernels/cpu/amx/thin_rows.cpp)
    target_sources(plimsoll_kernels PRIVATE ${compiled_for_amx})
    # GCC 12 warns about its own header of intrinsics.
    set_source_files_properties(${compiled_for_amx} PROPERTIES
        COMPILE_OPTIONS "${PLIMSOLL_AMX_FLAGS};$<$<CXX_COMPILER_ID:GNU>:-Wno-uninitialized>")
    # So that what other compilers get is compiled here too; nothing links it.
    add_library(plimsoll_without_amx OBJECT kernels/cpu/amx/tiles_none.cpp)
    target_include_directories(plimsoll_without_amx PRIVATE ${PROJECT_SOURCE_DIR})
else()
    target_sources(plimsoll_kernels PRIVATE kernels/cpu/amx/tiles_none.cpp)
endif()
