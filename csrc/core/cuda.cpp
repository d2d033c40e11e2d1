#include "core/cuda.h"

#if !defined(GRAMIAN_EMULATED)
#include <dlfcn.h>

namespace gramian::cuda {

// The look-up is late because the library with the function is there only in a torch with CUDA, and by name because torch's
// libraries are loaded privately: a plain reference finds nothing.
Stream OnDevice::current_stream(std::int32_t device) {
  using Get = std::int32_t (*)(std::int32_t, void**);
  static const Get get = [] {
    void* const library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return library == nullptr ? nullptr : reinterpret_cast<Get>(dlsym(library, "aoti_torch_get_current_cuda_stream"));
  }();
  Stream stream = nullptr;
  if (get == nullptr || get(device, &stream) != 0)
    throw DeviceError("gramian: this torch does not say which CUDA stream is current");
  return stream;
}

}  // namespace gramian::cuda
#endif
