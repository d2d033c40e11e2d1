// The one way to reject input: std::invalid_argument, which torch turns into a Python ValueError with exactly this text.
#pragma once
#include <sstream>
#include <stdexcept>

namespace gramian {

template <class... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw std::invalid_argument(text.str());
}

}  // namespace gramian
