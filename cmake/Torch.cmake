# Imported targets for the libtorch inside the torch wheel. find_package(Torch) is not used: it fails for a CUDA wheel on a machine
# without the CUDA toolkit. The package is located without importing it.
if(NOT SMAMBA_TORCH_DIR)
  execute_process(
    COMMAND ${SMAMBA_PYTHON} -c "import importlib.util as u; s=u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')"
    OUTPUT_VARIABLE SMAMBA_TORCH_DIR OUTPUT_STRIP_TRAILING_WHITESPACE)
endif()
if(NOT EXISTS "${SMAMBA_TORCH_DIR}/lib/libtorch_cpu.so")
  message(FATAL_ERROR "no torch package found by '${SMAMBA_PYTHON}'; run scripts/setup or pass -DSMAMBA_PYTHON=<python with torch>")
endif()
message(STATUS "libtorch: ${SMAMBA_TORCH_DIR}")
set(SMAMBA_TORCH_LIB ${SMAMBA_TORCH_DIR}/lib)

add_library(smamba_torch INTERFACE)
# The package holds fmt headers of another version, without the library: a folder before it keeps all files with the one that is linked.
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/include)
file(CREATE_LINK ${SMAMBA_INC_fmt_format_h}/fmt ${CMAKE_BINARY_DIR}/include/fmt SYMBOLIC)
target_include_directories(smamba_torch SYSTEM INTERFACE ${CMAKE_BINARY_DIR}/include ${SMAMBA_TORCH_DIR}/include ${SMAMBA_TORCH_DIR}/include/torch/csrc/api/include)
target_link_libraries(smamba_torch INTERFACE ${SMAMBA_TORCH_LIB}/libtorch_cpu.so ${SMAMBA_TORCH_LIB}/libc10.so)
target_link_options(smamba_torch INTERFACE -Wl,--allow-shlib-undefined)
list(PREPEND CMAKE_BUILD_RPATH ${SMAMBA_TORCH_LIB})

set(SMAMBA_TORCH_HAS_CUDA OFF)
if(EXISTS ${SMAMBA_TORCH_LIB}/libtorch_cuda.so)
  set(SMAMBA_TORCH_HAS_CUDA ON)
endif()

# One OpenMP run-time only, or two thread pools compete: the libgomp that libtorch itself loads.
find_package(OpenMP REQUIRED COMPONENTS CXX)
add_library(smamba_openmp INTERFACE)
target_compile_options(smamba_openmp INTERFACE ${OpenMP_CXX_FLAGS})
if(EXISTS ${SMAMBA_TORCH_LIB}/libgomp.so.1)
  target_link_libraries(smamba_openmp INTERFACE ${SMAMBA_TORCH_LIB}/libgomp.so.1)
else()
  target_link_libraries(smamba_openmp INTERFACE OpenMP::OpenMP_CXX)
endif()
