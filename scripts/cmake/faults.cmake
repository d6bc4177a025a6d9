# Faults against the real program (tests/faults): the short selection, in parts that fail separately. The whole matrix
# is scripts/faults.sh. Each part runs alone: what it injects is timed, and so is what must follow.
find_program(PLIMSOLL_MPIRUN mpirun)
if(NOT MPI_CXX_FOUND OR NOT PLIMSOLL_MPIRUN)
    plimsoll_skip_label(faults "no MPI (apt-get install libopenmpi-dev openmpi-bin)")
    return()
endif()
add_library(crash_shim SHARED tests/faults/crash_shim.cpp)
target_compile_options(crash_shim PRIVATE -Wall -Wextra)
target_link_libraries(crash_shim PRIVATE ${CMAKE_DL_LIBS})

function(plimsoll_faults name seconds)
    add_test(NAME faults_${name} COMMAND ${PLIMSOLL_PYTHON} tests/faults/matrix.py --short
        --program $<TARGET_FILE:plimsoll> --shim $<TARGET_FILE:crash_shim> ${ARGN}
        WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
    set_tests_properties(faults_${name} PROPERTIES LABELS faults TIMEOUT ${seconds} RUN_SERIAL ON
        SKIP_RETURN_CODE 77)
endfunction()
plimsoll_faults(kill 150 F1 F2 F10 F24)
plimsoll_faults(disk 120 F3 F4 F5 F26)
plimsoll_faults(damage 60 F6 F7 F8 F9)
plimsoll_faults(signals 60 F14 F15)
plimsoll_faults(ranks 90 F11 F12 F13 F19 F22 F27 F28)
plimsoll_faults(resume 60 F20 F21 F25)
plimsoll_faults(numbers 60 F16 F17 F18)
