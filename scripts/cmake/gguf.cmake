# Label gguf: exported files against stock llama.cpp, which is built once (.deps, or PLIMSOLL_LLAMA_CPP names a folder);
# skipped, saying why, where its source package cannot be had.
add_test(NAME gguf_build COMMAND ${PLIMSOLL_PYTHON} tests/gguf/llama_cpp.py)
set_tests_properties(gguf_build PROPERTIES LABELS gguf TIMEOUT 1800 FIXTURES_SETUP llama_cpp)
add_test(NAME gguf_rows COMMAND ${PLIMSOLL_PYTHON} tests/gguf/rows_check.py $<TARGET_FILE:plimsoll>)
set_tests_properties(gguf_rows PROPERTIES LABELS gguf TIMEOUT 360 FIXTURES_REQUIRED llama_cpp)
set_tests_properties(gguf_build gguf_rows PROPERTIES SKIP_REGULAR_EXPRESSION "skipped:"
    WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
# llama.cpp's own tokenizer vectors, which lie beside its source.
add_test(NAME gguf_tokenizer_vectors COMMAND ${PLIMSOLL_PYTHON} tests/gguf/tokenizer_vectors.py
    $<TARGET_FILE:plimsoll>)
set_tests_properties(gguf_tokenizer_vectors PROPERTIES LABELS gguf TIMEOUT 120 FIXTURES_REQUIRED llama_cpp
    SKIP_REGULAR_EXPRESSION "skipped:" WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
# To and from Hugging Face's transformers, where a Python has them.
add_test(NAME transformers COMMAND ${PLIMSOLL_PYTHON} tests/gguf/transformers_check.py $<TARGET_FILE:plimsoll>)
set_tests_properties(transformers PROPERTIES LABELS gguf TIMEOUT 360 SKIP_REGULAR_EXPRESSION "skipped:"
    WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
