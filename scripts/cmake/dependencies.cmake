# The libraries no build can do without. Each comes from an unpacked bundle (scripts/offline_bundle.sh) where the bundle
# has it, otherwise from the installed packages. The bundle goes first: it was carried here on purpose, and what a
# cluster has installed may be too old. `rm -r .deps/libraries` returns to the installed packages.
set(bundle ${PROJECT_SOURCE_DIR}/.deps/libraries)

# plimsoll_library(PACKAGE TARGET FOLDER): a library of headers only.
macro(plimsoll_library package target folder)
    if(EXISTS ${bundle}/${folder}/include)
        add_library(${target} INTERFACE IMPORTED)
        target_include_directories(${target} INTERFACE ${bundle}/${folder}/include)
        message(STATUS "${package}: ${bundle}/${folder}")
    else()
        find_package(${package} REQUIRED)
    endif()
endmacro()

plimsoll_library(fmt fmt::fmt fmt)
if(EXISTS ${bundle}/fmt/include)
    target_compile_definitions(fmt::fmt INTERFACE FMT_HEADER_ONLY=1)
endif()
plimsoll_library(nlohmann_json nlohmann_json::nlohmann_json nlohmann_json)
plimsoll_library(tomlplusplus tomlplusplus::tomlplusplus tomlplusplus)
plimsoll_library(CLI11 CLI11::CLI11 CLI11)
find_package(OpenMP REQUIRED COMPONENTS CXX)

# GoogleTest, from source where it is bundled: two files of its own make the libraries, whatever its version. Not its
# CMakeLists.txt, whose install rules would join ours.
macro(plimsoll_find_googletest)
    if(EXISTS ${bundle}/googletest/src)
        find_package(Threads REQUIRED)
        add_library(gtest STATIC EXCLUDE_FROM_ALL ${bundle}/googletest/src/gtest-all.cc)
        add_library(gtest_main STATIC EXCLUDE_FROM_ALL ${bundle}/googletest/src/gtest_main.cc)
        add_library(GTest::gtest ALIAS gtest)
        add_library(GTest::gtest_main ALIAS gtest_main)
        target_include_directories(gtest SYSTEM PUBLIC ${bundle}/googletest/include PRIVATE ${bundle}/googletest)
        target_link_libraries(gtest PUBLIC Threads::Threads)
        target_link_libraries(gtest_main PUBLIC gtest)
        set(GTest_VERSION "from ${bundle}")
    else()
        find_package(GTest REQUIRED)
    endif()
endmacro()
