// ReLU after 2 x 2 max-pooling, and its gradient, for maps whose channels lie side by side: N maps of H x W x C numbers, in
// single precision or bfloat16. `chosen` says which of a window's four numbers was the largest (the first of equals), or
// NONE where the ReLU is closed. A last odd row or column is in no window.

#include <cstdint>
#include <cstring>

namespace {

constexpr uint8_t NONE = 4;

typedef float Single;
typedef uint16_t Bfloat16;

inline float number(Single x) { return x; }
inline float number(Bfloat16 x) {
  const uint32_t bits = uint32_t(x) << 16;
  float number;
  std::memcpy(&number, &bits, sizeof number);
  return number;
}

template <typename T>
void pool_row(const T *upper, const T *lower, int windows, int C, T *pooled, uint8_t *chosen) {
  for (int window = 0; window < windows; ++window) {
    const T *const corners[] = {upper, upper + C, lower, lower + C};
    for (int c = 0; c < C; ++c) {
      T best = corners[0][c];
      int which = 0;
      for (int k = 1; k < 4; ++k) {
        const float x = number(corners[k][c]);
        const bool larger = x > number(best) || x != x;  // as torch, what is not a number wins
        best = larger ? corners[k][c] : best;
        which = larger ? k : which;
      }
      pooled[c] = number(best) <= 0 ? T(0) : best;
      chosen[c] = number(best) > 0 ? which : NONE;
    }
    upper += 2 * C, lower += 2 * C, pooled += C, chosen += C;
  }
}

template <typename T>
void spread_row(const T *gradient, const uint8_t *chosen, int windows, int C, T *upper, T *lower) {
  for (int window = 0; window < windows; ++window) {
    T *const corners[] = {upper, upper + C, lower, lower + C};
    for (int k = 0; k < 4; ++k)
      for (int c = 0; c < C; ++c) corners[k][c] = chosen[c] == k ? gradient[c] : T(0);
    upper += 2 * C, lower += 2 * C, gradient += C, chosen += C;
  }
}

template <typename T>
void pool(const T *x, int N, int H, int W, int C, T *pooled, uint8_t *chosen, int threads) {
  const int rows = H / 2, windows = W / 2;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t row = 0; row < int64_t(N) * rows; ++row) {
    const T *upper = x + (row / rows * H + row % rows * 2) * W * C;
    pool_row(upper, upper + int64_t(W) * C, windows, C, pooled + row * windows * C, chosen + row * windows * C);
  }
}

template <typename T>
void spread(const T *gradient, const uint8_t *chosen, int N, int H, int W, int C, T *x, int threads) {
  const int rows = H / 2, windows = W / 2;
  const size_t line = size_t(W) * C;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t row = 0; row < int64_t(N) * rows; ++row) {
    T *upper = x + (row / rows * H + row % rows * 2) * line, *lower = upper + line;
    spread_row(gradient + row * windows * C, chosen + row * windows * C, windows, C, upper, lower);
    if (W % 2) {
      std::memset(lower - C, 0, C * sizeof(T));
      std::memset(lower + line - C, 0, C * sizeof(T));
    }
    if (H % 2 && row % rows == rows - 1) std::memset(lower + line, 0, line * sizeof(T));
  }
}

}  // namespace

#define FOR_NUMBERS(T, name)                                                                                       \
  extern "C" void pool_##name(const T *x, int N, int H, int W, int C, T *pooled, uint8_t *chosen, int threads) {   \
    pool(x, N, H, W, C, pooled, chosen, threads);                                                                  \
  }                                                                                                                \
  extern "C" void spread_##name(const T *gradient, const uint8_t *chosen, int N, int H, int W, int C, T *x,        \
                                int threads) {                                                                     \
    spread(gradient, chosen, N, H, W, C, x, threads);                                                              \
  }

FOR_NUMBERS(Single, float32)
FOR_NUMBERS(Bfloat16, bfloat16)
