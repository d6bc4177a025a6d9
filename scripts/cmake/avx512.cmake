# fp32 products on AVX-512: compiled for every x86-64 CPU by compilers that know it, used where the CPU that runs has it.
include(CheckCXXSourceCompiles)
set(CMAKE_REQUIRED_FLAGS -mavx512f)
check_cxx_source_compiles("#include <immintrin.h>
    int main() { return sizeof(__m512) == 64 && __builtin_cpu_supports(\"avx512f\") >= 0 ? 0 : 1; }" PLIMSOLL_HAS_AVX512)
unset(CMAKE_REQUIRED_FLAGS)
if(PLIMSOLL_HAS_AVX512)
    target_sources(plimsoll_kernels PRIVATE kernels/cpu/avx512/panels.cpp)
    set_source_files_properties(kernels/cpu/avx512/panels.cpp PROPERTIES
        COMPILE_OPTIONS "-mavx512f;$<$<CXX_COMPILER_ID:GNU>:-Wno-uninitialized>")
    # So that what other compilers get is compiled here too; nothing links it.
    add_library(plimsoll_without_avx512 OBJECT kernels/cpu/avx512/panels_none.cpp)
    target_include_directories(plimsoll_without_avx512 PRIVATE ${PROJECT_SOURCE_DIR})
else()
    target_sources(plimsoll_kernels PRIVATE kernels/cpu/avx512/panels_none.cpp)
endif()
