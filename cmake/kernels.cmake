# The kernels, once per instruction set. Their sources use no standard library, so no symbol of theirs is weak and the
# linker can never keep an AVX-512 copy of a shared inline function for the whole program (tests/test_build.py checks).
set(GRAMIAN_ISAS)
set(GRAMIAN_KERNEL_OBJECTS)

function(gramian_add_isa isa)
  add_library(kernels_${isa} OBJECT ${GRAMIAN_KERNELS})
  target_include_directories(kernels_${isa} PRIVATE csrc)
  target_compile_definitions(kernels_${isa} PRIVATE GRAMIAN_ISA=${isa})
  # Never -ffast-math: NaN and infinities keep their rules. GCC 12 warns falsely inside its own AVX-512 headers.
  target_compile_options(kernels_${isa} PRIVATE -O3 -ffp-contract=fast -fno-math-errno -fno-trapping-math
                         -fno-exceptions -fno-rtti -fno-asynchronous-unwind-tables -Wno-maybe-uninitialized
                         -Wno-psabi ${ARGN})
  set(GRAMIAN_FLAGS_${isa} -ffp-contract=fast -fno-math-errno -fno-trapping-math -Wno-maybe-uninitialized -Wno-psabi
                           ${ARGN} PARENT_SCOPE)
  set(GRAMIAN_ISAS ${GRAMIAN_ISAS} ${isa} PARENT_SCOPE)
  set(GRAMIAN_KERNEL_OBJECTS ${GRAMIAN_KERNEL_OBJECTS} $<TARGET_OBJECTS:kernels_${isa}> PARENT_SCOPE)
endfunction()

if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  gramian_add_isa(baseline -march=x86-64-v2)
  gramian_add_isa(avx2 -march=x86-64-v3)
  if(GRAMIAN_WIDE)
    gramian_add_isa(avx512 -march=x86-64-v3 -DGRAMIAN_VECTOR_BYTES=64)
  else()
    gramian_add_isa(avx512 -march=x86-64-v4 -mprefer-vector-width=512)
  endif()
else()
  gramian_add_isa(baseline)  # arm64: the vector types compile to NEON
endif()
