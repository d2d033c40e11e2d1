# torch's headers and its one library that the stable ABI needs. find_package(Torch) would drag in CUDA and MKL logic and
# flags; asking the interpreter for the folder does not even import torch.
find_package(Python REQUIRED COMPONENTS Interpreter Development.Module)
# GRAMIAN_TORCH_ROOT names another interpreter's torch: its headers are the same for all (tools/wheel.py).
set(GRAMIAN_TORCH_ROOT "" CACHE PATH "Folder of the torch package to build with; by default that of the interpreter")
execute_process(
  COMMAND ${Python_EXECUTABLE} -c
          "import importlib.util as u, pathlib as p, re, sys; root = p.Path(sys.argv[1] or p.Path(u.find_spec('torch').origin).parent); print(root, re.search('__version__ = .([0-9][0-9A-Za-z.+]*)', (root / 'version.py').read_text())[1], sep=';', end='')"
          "${GRAMIAN_TORCH_ROOT}"
  OUTPUT_VARIABLE torch_facts ERROR_QUIET RESULT_VARIABLE torch_missing)
if(torch_missing)
  message(FATAL_ERROR "gramian needs torch >= 2.10 at build time and ${Python_EXECUTABLE} has none: pip install torch==2.13.0")
endif()
list(GET torch_facts 0 torch_root)
list(GET torch_facts 1 GRAMIAN_TORCH_VERSION)

add_library(torch_stable INTERFACE)
target_include_directories(torch_stable SYSTEM INTERFACE ${torch_root}/include)
target_compile_definitions(torch_stable INTERFACE TORCH_TARGET_VERSION=0x020A000000000000 TORCH_STABLE_ONLY)
target_compile_options(torch_stable INTERFACE "$<$<COMPILE_LANGUAGE:CXX>:-ffile-prefix-map=${torch_root}/include/=>")
target_link_libraries(torch_stable INTERFACE ${torch_root}/lib/libtorch_cpu.so)
