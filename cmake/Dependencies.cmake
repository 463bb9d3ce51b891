# Header-only: CLI11, toml++, nlohmann-json, fmt. Compiled: Highway (its run-time CPU detection), zlib, zstd, utf8proc, simdjson.
# All come from the distribution; scripts/setup names the packages. SMAMBA_CARRY is a folder with the same layout (include/, lib/)
# for machines that lack some of them.
set(SMAMBA_CARRY "" CACHE PATH "folder with include/ and lib/ of dependencies that the machine lacks")

add_library(smamba_deps INTERFACE)
target_compile_definitions(smamba_deps INTERFACE FMT_HEADER_ONLY)
if(SMAMBA_CARRY)
  target_include_directories(smamba_deps SYSTEM INTERFACE ${SMAMBA_CARRY}/include)
  list(PREPEND CMAKE_PREFIX_PATH ${SMAMBA_CARRY})
  list(PREPEND CMAKE_LIBRARY_PATH ${SMAMBA_CARRY}/lib)
  list(PREPEND CMAKE_INCLUDE_PATH ${SMAMBA_CARRY}/include)
  list(APPEND CMAKE_BUILD_RPATH ${SMAMBA_CARRY}/lib)
endif()

foreach(header CLI/CLI.hpp toml++/toml.h nlohmann/json.hpp fmt/format.h hwy/highway.h)
  string(MAKE_C_IDENTIFIER ${header} id)
  find_path(SMAMBA_INC_${id} ${header})
  if(NOT SMAMBA_INC_${id})
    message(FATAL_ERROR "header ${header} not found; run scripts/setup, which names the package to install")
  endif()
  if(NOT SMAMBA_INC_${id} MATCHES "^/usr/include$")
    target_include_directories(smamba_deps SYSTEM INTERFACE ${SMAMBA_INC_${id}})
  endif()
endforeach()

find_library(SMAMBA_HWY hwy REQUIRED)
find_library(SMAMBA_ZLIB z REQUIRED)
find_library(SMAMBA_ZSTD zstd REQUIRED)
find_library(SMAMBA_UTF8PROC utf8proc REQUIRED)
find_library(SMAMBA_SIMDJSON simdjson REQUIRED)
# Optional: SentencePiece models are refused by name without it.
find_library(SMAMBA_SENTENCEPIECE sentencepiece)
find_path(SMAMBA_SENTENCEPIECE_INCLUDE sentencepiece_processor.h)
