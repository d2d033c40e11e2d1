# The CUDA library. GRAMIAN_CUDA=auto builds it where it can be used: nvcc is there and torch has CUDA. It needs neither a GPU
# nor a CUDA torch to be built, so =on builds it for other machines, and is an error without nvcc.
set(GRAMIAN_CUDA_OPS
  csrc/attention/attention_cuda.cpp
  csrc/core/cuda.cpp
  csrc/core/gram_square_sum_cuda.cpp
  csrc/ensemble/accumulate_cuda.cpp
  csrc/information/infonce_cuda.cpp
  csrc/information/pairwise_scores_cuda.cpp
  csrc/neighbors/assign_cuda.cpp
  csrc/neighbors/count_within_cuda.cpp
  csrc/neighbors/kmeans_cuda.cpp
  csrc/neighbors/kmeans_plus_plus_cuda.cpp
  csrc/neighbors/knn_both_cuda.cpp
  csrc/neighbors/knn_cuda.cpp
  csrc/neighbors/knn_merge_cuda.cpp
  csrc/neighbors/knn_pass_cuda.cpp
  csrc/ntk/layers_gram_cuda.cpp
  csrc/ntk/linear_gram_cuda.cpp
  csrc/simplex/sixj_cuda.cpp
  csrc/simplex/weight4_cuda.cpp
  csrc/spectra/kernel_sum_cuda.cpp
  csrc/spectra/ndft_cuda.cpp
  csrc/spectra/shells_cuda.cpp
)
set(GRAMIAN_CUDA_KERNELS
  csrc/attention/attention_kernel.cu
  csrc/core/device.cu
  csrc/core/gram_square_sum_kernel.cu
  csrc/ensemble/accumulate_kernel.cu
  csrc/information/infonce_kernel.cu
  csrc/information/pairwise_scores_kernel.cu
  csrc/neighbors/count_within_kernel.cu
  csrc/neighbors/kmeans_kernel.cu
  csrc/neighbors/kmeans_plus_plus_kernel.cu
  csrc/neighbors/knn_kernel.cu
  csrc/ntk/linear_gram_kernel.cu
  csrc/simplex/sixj_kernel.cu
  csrc/simplex/weight4_kernel.cu
  csrc/spectra/pair_sum_kernel.cu
  csrc/spectra/shells_kernel.cu
)

# torch's headers cost an op more than the op does, so some ops share them; a kernel stands alone.
set(gramian_ops_at_once UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 11)
set_source_files_properties(${GRAMIAN_CUDA_KERNELS} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)

set(GRAMIAN_CUDA auto CACHE STRING "Build the CUDA library: auto, on or off")
set_property(CACHE GRAMIAN_CUDA PROPERTY STRINGS auto on off)
string(TOLOWER "${GRAMIAN_CUDA}" GRAMIAN_CUDA)
if(NOT GRAMIAN_CUDA MATCHES "^(auto|on|off)$")
  message(FATAL_ERROR "GRAMIAN_CUDA must be auto, on or off, got ${GRAMIAN_CUDA}")
endif()

set(GRAMIAN_WITH_CUDA OFF)
if(GRAMIAN_CUDA STREQUAL on OR (GRAMIAN_CUDA STREQUAL auto AND EXISTS ${torch_root}/lib/libtorch_cuda.so))
  # The kernels use no instruction that sm_80 has not, so one PTX serves all: it is compiled once, becomes machine code for the
  # data-centre cards, and is kept for other cards and those to come. CMake's list would compile it anew for each.
  set(CMAKE_CUDA_ARCHITECTURES OFF CACHE STRING "CUDA architectures, instead of GRAMIAN's own choice")
  set(gramian_cuda_code "$<$<COMPILE_LANGUAGE:CUDA>:--generate-code=arch=compute_80,code=[compute_80,sm_80,sm_90,sm_100]>")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    set(GRAMIAN_WITH_CUDA ON)
  elseif(GRAMIAN_CUDA STREQUAL on)
    message(FATAL_ERROR "GRAMIAN_CUDA=on needs nvcc 12.8 or newer, and there is none: install the CUDA toolkit, or name it with CUDACXX")
  endif()
endif()

if(GRAMIAN_WITH_CUDA)
  # Only implementations: the schemas are those of _ops_cpu. The CUDA runtime is linked in, so any CUDA torch will do.
  add_library(_ops_cuda SHARED ${GRAMIAN_CUDA_OPS} ${GRAMIAN_CUDA_KERNELS})
  target_include_directories(_ops_cuda PRIVATE csrc)
  target_link_libraries(_ops_cuda PRIVATE torch_stable ${CMAKE_DL_LIBS})
  if(NOT CMAKE_CUDA_ARCHITECTURES)
    target_compile_options(_ops_cuda PRIVATE ${gramian_cuda_code})
  endif()
  target_link_options(_ops_cuda PRIVATE -Wl,-z,defs -Wl,--as-needed -Wl,--exclude-libs,ALL)
  set_target_properties(_ops_cuda PROPERTIES ${gramian_ops_at_once}
    PREFIX "" BUILD_WITH_INSTALL_RPATH ON INSTALL_RPATH "$ORIGIN/../torch/lib"
    CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON CUDA_RUNTIME_LIBRARY Static CUDA_VISIBILITY_PRESET hidden)
  install(TARGETS _ops_cuda DESTINATION gramian COMPONENT gramian)
endif()

# The same ops and kernels, the kernels compiled as C++ and run on the host (csrc/core/emulate.h): how they are tested
# where there is no GPU.
option(GRAMIAN_CUDA_EMULATED "Build the CUDA ops to run on the host, for tests" OFF)
if(GRAMIAN_CUDA_EMULATED)
  if(GRAMIAN_WITH_CUDA)
    message(FATAL_ERROR "GRAMIAN_CUDA_EMULATED=ON needs GRAMIAN_CUDA=off: a source has one compiler")
  endif()
  add_library(_ops_emulated SHARED ${GRAMIAN_CUDA_OPS} ${GRAMIAN_CUDA_KERNELS})
  target_include_directories(_ops_emulated PRIVATE csrc)
  target_compile_definitions(_ops_emulated PRIVATE GRAMIAN_EMULATED)
  target_link_libraries(_ops_emulated PRIVATE torch_stable)
  set_target_properties(_ops_emulated PROPERTIES ${gramian_ops_at_once} PREFIX "")
  # Unrolled for a GPU, they take the host's compiler twice as long with more than -O1.
  set_source_files_properties(${GRAMIAN_CUDA_KERNELS} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-xc++;-O1")
endif()
