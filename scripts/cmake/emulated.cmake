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
    target_compile_options(${name} PRIVATE -Wall -Wextra -g -fsanitize=thread)
    target_link_libraries(${name} PUBLIC plimsoll_simt fmt::fmt)
endfunction()

plimsoll_emulated_objects(plimsoll_planted_bugs tests/simt/planted_bugs.cu)
add_executable(simt_test tests/simt/emulator_test.cpp tests/simt/main.cpp $<TARGET_OBJECTS:plimsoll_planted_bugs>)
target_include_directories(simt_test PRIVATE ${PROJECT_SOURCE_DIR} tests)
target_link_libraries(simt_test PRIVATE plimsoll_simt fmt::fmt GTest::gtest)
add_test(NAME emulator COMMAND simt_test)
set_tests_properties(emulator PROPERTIES LABELS emulated TIMEOUT 60)
