# Hostile files against the parsers that read them (tests/fuzz): libFuzzer with AddressSanitizer and
# UndefinedBehaviorSanitizer, which clang has. The few sources needed are compiled a second time, by clang, for the
# target `fuzzers`; the fixture fuzz_build builds it, so that only who runs the label `fuzz` waits for it.
find_program(PLIMSOLL_CLANG NAMES clang++ clang++-20 clang++-19 clang++-18 clang++-17 clang++-16 clang++-15 clang++-14)
set(fuzz_folder ${PROJECT_BINARY_DIR}/fuzz)
if(PLIMSOLL_CLANG AND NOT DEFINED PLIMSOLL_LIBFUZZER)
    file(WRITE ${fuzz_folder}/probe.cpp
        "#include <cstddef>\n#include <cstdint>\nextern \"C\" int LLVMFuzzerTestOneInput(const uint8_t*, size_t) { return 0; }\n")
    execute_process(COMMAND ${PLIMSOLL_CLANG} -std=c++20 -fsanitize=fuzzer,address,undefined ${fuzz_folder}/probe.cpp
        -o ${fuzz_folder}/probe RESULT_VARIABLE status OUTPUT_QUIET ERROR_QUIET)
    set(works OFF)
    if("${status}" STREQUAL 0)
        set(works ON)
    endif()
    set(PLIMSOLL_LIBFUZZER ${works} CACHE INTERNAL "clang++ links libFuzzer")
endif()
if(NOT PLIMSOLL_CLANG OR NOT PLIMSOLL_LIBFUZZER)
    plimsoll_skip_label(fuzz "no clang++ with libFuzzer (apt-get install clang)")
    return()
endif()
if(cuda_enabled)
    plimsoll_skip_label(fuzz "the parsers are fuzzed in builds without the CUDA backend")
    return()
endif()
message(STATUS "Fuzzers: ${PLIMSOLL_CLANG}")

set(fuzz_flags -std=c++20 -g -O1 -Wall -Wextra -fno-omit-frame-pointer -fno-sanitize-recover=all -DFMT_HEADER_ONLY=1
    -I${PROJECT_SOURCE_DIR} -I${PROJECT_SOURCE_DIR}/tests/fuzz)
# After the system's own folders: one of them may be among these, and must keep its place.
foreach(library fmt::fmt nlohmann_json::nlohmann_json tomlplusplus::tomlplusplus)
    get_target_property(folders ${library} INTERFACE_INCLUDE_DIRECTORIES)
    foreach(folder ${folders})
        list(APPEND fuzz_flags -idirafter ${folder})
    endforeach()
endforeach()
# Conversions of numbers out of range too: what a double of 1e300 becomes as an integer is undefined.
set(fuzz_sanitizers address,undefined,float-cast-overflow)

# Compiles a source; appends the object's path to the list `objects`.
function(plimsoll_fuzz_object source objects)
    string(REPLACE "/" "_" name ${source})
    set(object ${fuzz_folder}/${name}.o)
    add_custom_command(OUTPUT ${object} DEPENDS ${PROJECT_SOURCE_DIR}/${source} DEPFILE ${object}.d
        COMMAND ${PLIMSOLL_CLANG} ${fuzz_flags} -fsanitize=fuzzer-no-link,${fuzz_sanitizers} -MD -MF ${object}.d
            -c ${PROJECT_SOURCE_DIR}/${source} -o ${object}
        COMMAND_EXPAND_LISTS VERBATIM COMMENT "Fuzzers: ${source}")
    set(${objects} ${${objects}} ${object} PARENT_SCOPE)
endfunction()

# What a configuration is checked against (the names of a network's parameters) leads to the kernels: those two rooms as
# they are, without sanitizers, behind the parsers.
set(fuzz_rooms plimsoll_model plimsoll_kernels)
set(fuzz_libraries $<TARGET_FILE:plimsoll_model> $<TARGET_FILE:plimsoll_kernels> -lgomp)
if(gemm STREQUAL onednn)
    list(APPEND fuzz_libraries ${PLIMSOLL_DNNL})
elseif(gemm STREQUAL openblas)
    list(APPEND fuzz_libraries ${PLIMSOLL_OPENBLAS})
endif()

# Links tests/fuzz/NAME.cpp with the parsers; `sanitizers` says whether libFuzzer's main is among them.
function(plimsoll_fuzz_program name sanitizers)
    set(main "")
    plimsoll_fuzz_object(tests/fuzz/${name}.cpp main)
    add_custom_command(OUTPUT ${fuzz_folder}/${name} DEPENDS ${main} ${fuzz_folder}/libparsers.a ${fuzz_rooms}
        COMMAND ${PLIMSOLL_CLANG} -fsanitize=${sanitizers} ${main} ${fuzz_folder}/libparsers.a ${fuzz_libraries}
            -o ${fuzz_folder}/${name}
        VERBATIM COMMENT "Fuzzers: ${name}")
endfunction()

set(parsers "")
foreach(source data/bpe.cpp data/bpe_file.cpp data/config.cpp data/document_index.cpp data/file.cpp
        data/pretokenizer.cpp data/shard_writer.cpp data/token_shards.cpp data/token_stream.cpp data/tokenizer.cpp
        data/unicode_classes.cpp data/utf8.cpp kernels/attention.cpp kernels/tensor.cpp model/config.cpp
        train/checkpoint_file.cpp train/config.cpp train/config_checks.cpp train/config_text.cpp
        train/parameter_groups.cpp train/toml_scan.cpp train/crc32c.cpp train/json_reader.cpp train/manifest.cpp train/export/gguf_file.cpp train/export/hf_config.cpp train/export/safetensors_file.cpp
        train/export/tensor_types.cpp)
    plimsoll_fuzz_object(${source} parsers)
endforeach()
add_custom_command(OUTPUT ${fuzz_folder}/libparsers.a DEPENDS ${parsers}
    COMMAND ${CMAKE_COMMAND} -E rm -f ${fuzz_folder}/libparsers.a
    COMMAND ${CMAKE_AR} rcs ${fuzz_folder}/libparsers.a ${parsers} VERBATIM)
plimsoll_fuzz_program(make_seeds ${fuzz_sanitizers})
add_custom_command(OUTPUT ${fuzz_folder}/seeds/made DEPENDS ${fuzz_folder}/make_seeds
    COMMAND ${CMAKE_COMMAND} -E rm -rf ${fuzz_folder}/seeds
    COMMAND ${fuzz_folder}/make_seeds ${fuzz_folder}/seeds
    COMMAND ${CMAKE_COMMAND} -E touch ${fuzz_folder}/seeds/made VERBATIM)

# The seeds and options of a target.
set(fuzz_tests ${PROJECT_SOURCE_DIR}/tests/fuzz)
set(arguments_config ${PROJECT_SOURCE_DIR}/configs -dict=${fuzz_tests}/toml.dict)
set(arguments_tokenizer -dict=${fuzz_tests}/json.dict)
set(arguments_manifest -dict=${fuzz_tests}/json.dict)
set(arguments_checkpoint -dict=${fuzz_tests}/json.dict)
set(programs "")
set(arguments_safetensors -dict=${fuzz_tests}/json.dict)
set(arguments_hf_config -dict=${fuzz_tests}/json.dict)
foreach(target config shard document_index tokenizer prompt manifest checkpoint gguf safetensors hf_config)
    plimsoll_fuzz_program(${target}_fuzz fuzzer,${fuzz_sanitizers})
    list(APPEND programs ${fuzz_folder}/${target}_fuzz)
    add_test(NAME fuzz_${target} COMMAND ${PLIMSOLL_PYTHON} ${fuzz_tests}/run_fuzzer.py ${fuzz_folder}/${target}_fuzz
        ${fuzz_folder}/findings ${fuzz_folder}/seeds/${target} ${arguments_${target}})
    # PLIMSOLL_FUZZ_SECONDS may ask for half an hour; the script itself ends a target that overruns.
    set_tests_properties(fuzz_${target} PROPERTIES LABELS fuzz TIMEOUT 7200 FIXTURES_REQUIRED fuzzers)
endforeach()
add_custom_target(fuzzers DEPENDS ${programs} ${fuzz_folder}/seeds/made)
add_test(NAME fuzz_build COMMAND ${CMAKE_COMMAND} --build ${PROJECT_BINARY_DIR} --target fuzzers --parallel 2)
set_tests_properties(fuzz_build PROPERTIES LABELS fuzz TIMEOUT 600 FIXTURES_SETUP fuzzers)
