// CHECK(condition, values...): counts a failure and says where and with what.
#pragma once
#include <cstdio>
#include <iostream>

inline int failures = 0;

#define CHECK(condition, ...)                                                          \
  do {                                                                                 \
    if (!(condition)) {                                                                \
      if (++failures <= 20) {                                                          \
        std::cerr << __FILE__ << ":" << __LINE__ << ": " #condition << ": ";           \
        [](const auto&... value) { ((std::cerr << value << " "), ...); }(__VA_ARGS__); \
        std::cerr << "\n";                                                             \
      }                                                                                \
    }                                                                                  \
  } while (false)
