// The one way to reject input: std::invalid_argument, which torch turns into a Python ValueError with exactly this text.
#pragma once
#include <sstream>
#include <stdexcept>
#include <string>

namespace gramian {

template <class... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  std::string line = text.str();
  for (char& c : line)  // of a string that was given
    if (static_cast<unsigned char>(c) < ' ') c = ' ';
  throw std::invalid_argument(line);
}

}  // namespace gramian
