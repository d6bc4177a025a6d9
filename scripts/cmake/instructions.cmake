# What is written in instructions that not every x86-64 CPU has: compiled for all of them by compilers that know these,
# used where the CPU that runs has them.
include(CheckCXXSourceCompiles)

# Whether the compiler takes `code` with these flags is `has`. Then plimsoll_kernels gets SOURCES, compiled with FLAGS;
# else NONE, which is compiled in any case.
function(plimsoll_instructions name has code)
    cmake_parse_arguments(PARSE_ARGV 3 arg "" "NONE" "FLAGS;SOURCES")
    string(REPLACE ";" " " CMAKE_REQUIRED_FLAGS "${arg_FLAGS}")
    check_cxx_source_compiles("#include <immintrin.h>
        int main() { ${code} }" ${has})
    if(NOT ${has})
        target_sources(plimsoll_kernels PRIVATE ${arg_NONE})
        return()
    endif()
    target_sources(plimsoll_kernels PRIVATE ${arg_SOURCES})
    # GCC 12 warns about its own header of intrinsics.
    set_source_files_properties(${arg_SOURCES} PROPERTIES
        COMPILE_OPTIONS "${arg_FLAGS};$<$<CXX_COMPILER_ID:GNU>:-Wno-uninitialized>")
    # So that what other compilers get is compiled here too; nothing links it.
    add_library(plimsoll_without_${name} OBJECT ${arg_NONE})
    target_include_directories(plimsoll_without_${name} PRIVATE ${PROJECT_SOURCE_DIR})
endfunction()

plimsoll_instructions(avx512 PLIMSOLL_HAS_AVX512
    "return sizeof(__m512) == 64 && __builtin_cpu_supports(\"avx512f\") >= 0 ? 0 : 1;"
    NONE kernels/cpu/avx512/panels_none.cpp
    FLAGS -mavx512f
    SOURCES kernels/cpu/avx512/panels.cpp)

set(bf16_sources tiles blocks activations adam_rows attention_rows cross_entropy_rows gate_rows head_rows norm_rows
    thin_rows)
list(TRANSFORM bf16_sources PREPEND kernels/cpu/avx512_bf16/)
list(TRANSFORM bf16_sources APPEND .cpp)
# The kernel is asked for tiles as Linux is.
if(CMAKE_SYSTEM_NAME STREQUAL Linux)
    set(bf16_code "return sizeof(__m512bh) == 64 ? 0 : 1;")
else()
    set(bf16_code "return only_on_linux;")
endif()
plimsoll_instructions(avx512_bf16 PLIMSOLL_HAS_AVX512_BF16 "${bf16_code}"
    NONE kernels/cpu/avx512_bf16/tiles_none.cpp
    FLAGS -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512bf16 -mamx-tile -mamx-bf16
    SOURCES ${bf16_sources})
