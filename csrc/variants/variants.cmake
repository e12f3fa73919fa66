# The library for any x86-64: ggml's CPU back end is compiled once for each kind of processor, with that kind's
# instructions, and the library takes the best when it is loaded (choose.cpp).
#
# llama.cpp has the same as plugins (GGML_BACKEND_DL), each a shared object. Here all are in one, so that nothing has to be
# found beside it and no other llama.cpp in the process can take ours: scripts/cpu_variants.py makes the functions of each
# kind its own.
#
# Best first. The names are llama.cpp's; a kind's features are named as __builtin_cpu_supports takes them.
set(avx2   avx avx2 bmi2 f16c fma)
set(avx512 ${avx2} avx512bw avx512cd avx512dq avx512f avx512vl)

set(KVFORK_CPU_KINDS zen4 cascadelake alderlake haswell sse42 x64)
set(features_zen4           ${avx512} avx512vbmi avx512vnni avx512bf16)
set(features_cascadelake    ${avx512} avx512vnni)
set(features_alderlake      ${avx2} avxvnni)
set(features_haswell        ${avx2})
set(features_sse42          sse4.2)
set(features_x64)

if (NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64" OR NOT CMAKE_SYSTEM_NAME STREQUAL "Linux")
    message(FATAL_ERROR "KVFORK_CPU_VARIANTS is for Linux on x86-64; leave it out here.")
endif()

# what upstream's ggml-cpu is made of; it is compiled for x64 here, and serves as that kind
get_target_property(folder      ggml-cpu SOURCE_DIR)
get_target_property(sources     ggml-cpu SOURCES)
get_target_property(includes    ggml-cpu INCLUDE_DIRECTORIES)
get_target_property(definitions ggml-cpu COMPILE_DEFINITIONS)
get_directory_property(more DIRECTORY ${folder} COMPILE_DEFINITIONS)
list(TRANSFORM sources PREPEND "${folder}/" REGEX "^[^/]")
list(FILTER sources INCLUDE REGEX "\\.(c|cpp)$")

# what "unique" symbols name is one for the whole process: an inline function's constants would not be a kind's own
set(own $<$<COMPILE_LANGUAGE:CXX>:-fno-gnu-unique>)
target_compile_options(ggml-cpu PRIVATE ${own})

function(kvfork_add_cpu_kind kind)
    set(target kvfork-cpu-${kind})
    add_library(${target} STATIC EXCLUDE_FROM_ALL ${sources})
    target_include_directories(${target} PRIVATE ${includes})
    target_compile_definitions(${target} PRIVATE ${definitions} ${more})
    set_target_properties(${target} PROPERTIES C_STANDARD 11)
    list(TRANSFORM features_${kind} PREPEND -m OUTPUT_VARIABLE flags)
    target_compile_options(${target} PRIVATE ${flags} ${own} -w)
    target_link_libraries(${target} PRIVATE ggml-base)
endfunction()

set(objects)
set(archives)
set(kinds "")
foreach (kind IN LISTS KVFORK_CPU_KINDS)
    if (kind STREQUAL x64)
        list(APPEND targets ggml-cpu)
    else()
        kvfork_add_cpu_kind(${kind})
        list(APPEND targets kvfork-cpu-${kind})
    endif()
    list(GET targets -1 target)
    list(APPEND archives ${kind}=$<TARGET_FILE:${target}>)
    list(APPEND objects ${CMAKE_BINARY_DIR}/variants/${kind}.o)
    set(runs "true")
    foreach (feature IN LISTS features_${kind})
        string(APPEND runs " && __builtin_cpu_supports(\"${feature}\")")
    endforeach()
    string(APPEND kinds "KIND(${kind}, ${runs})\n")
endforeach()
file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/variants/kinds.inc CONTENT "${kinds}" @ONLY)

add_custom_command(
    OUTPUT ${objects}
    COMMAND ${Python_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/scripts/cpu_variants.py
        --output ${CMAKE_BINARY_DIR}/variants --nm ${CMAKE_NM} --ld ${CMAKE_LINKER} --objcopy ${CMAKE_OBJCOPY}
        --objdump ${CMAKE_OBJDUMP}
        --callers $<TARGET_FILE:llama> $<TARGET_FILE:llama-common> $<TARGET_FILE:ggml> $<TARGET_FILE:ggml-base>
                  $<TARGET_OBJECTS:kvfork-engine>
        --kinds ${archives}
    DEPENDS ${targets} llama llama-common ggml ggml-base kvfork-engine
            ${CMAKE_CURRENT_SOURCE_DIR}/scripts/cpu_variants.py
    COMMAND_EXPAND_LISTS VERBATIM)
set(KVFORK_CPU_OBJECTS ${objects})
