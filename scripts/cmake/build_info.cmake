# Writes C++ constants about the build to OUT, if they differ from what is there.
set(commit "unknown")
if(GIT)
    execute_process(COMMAND ${GIT} -C ${SOURCE} describe --always --dirty --abbrev=12 OUTPUT_VARIABLE described
        OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
    if(NOT failed)
        set(commit ${described})
    endif()
endif()
set(text "constexpr const char* kCommit = \"${commit}\";
constexpr const char* kBuildType = \"${TYPE}\";
constexpr const char* kCompiler = \"${COMPILER}\";
constexpr const char* kGemm = \"${GEMM}\";
constexpr bool kNative = \"${NATIVE}\" == std::string_view(\"ON\");
")
if(EXISTS ${OUT})
    file(READ ${OUT} before)
endif()
if(NOT "${text}" STREQUAL "${before}")
    file(WRITE ${OUT} "${text}")
endif()
