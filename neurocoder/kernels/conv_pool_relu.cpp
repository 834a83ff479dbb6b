// A 5 x 5 convolution of maps with one channel, 2 x 2 max-pooling and ReLU in one pass, and its gradient: what lies between is
// four times as large as the outcome, and is never written. N maps of H x W numbers, padded with zeros by P on all sides; C
// output channels, which lie side by side. `chosen` as in pool_relu.cpp.

#include <cstdint>
#include <cstring>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16;  // as many as the processor has: compilers are bad at wider vectors
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
constexpr int K = 5, TAPS = K * K, CORNERS = 4, BLOCK = 2 * LANES;  // the convolution takes BLOCK channels at a time
constexpr uint8_t NONE = 4;

typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef int32_t Integers __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));
typedef uint8_t Bytes __attribute__((vector_size(LANES)));
typedef float Single;
typedef uint16_t Bfloat16;

template <typename V, typename T>
inline V load(const T *from) {
  V x;
  std::memcpy(&x, from, sizeof x);
  return x;
}
template <typename V, typename T>
inline void store(V x, T *to) {
  std::memcpy(to, &x, sizeof x);
}

inline Vector numbers(const Single *from) { return load<Vector>(from); }
inline Vector numbers(const Bfloat16 *from) {
  return (Vector)(__builtin_convertvector(load<Halves>(from), Integers) << 16);
}
inline void keep(Vector x, Single *to) { store(x, to); }
inline void keep(Vector x, Bfloat16 *to) {  // to the nearest, ties to even; what is not a number stays none
  const Integers bits = (Integers)x;
  const Integers rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  store(__builtin_convertvector(x == x ? rounded : Integers{} + 0x7fc0, Halves), to);
}

// The map with its border of zeros, (H + 2 P, W + 2 P).
std::vector<float> padded(const float *x, int H, int W, int P) {
  std::vector<float> wide(size_t(H + 2 * P) * (W + 2 * P));
  for (int row = 0; row < H; ++row) std::memcpy(&wide[size_t(row + P) * (W + 2 * P) + P], x + size_t(row) * W, W * sizeof(float));
  return wide;
}

// weights (K K, C), bias (C) -> pooled and chosen (rows, windows, C)
template <typename T>
void forward_map(const float *wide, int width, int rows, int windows, const float *weights, const float *bias, int C,
                 T *pooled, uint8_t *chosen) {
  for (int row = 0; row < rows; ++row)
    for (int window = 0; window < windows; ++window, pooled += C, chosen += C) {
      const float *patch = wide + size_t(2 * row) * width + 2 * window;
      for (int c = 0; c < C; c += BLOCK) {
        Vector corner[CORNERS][2];
        for (auto &halves : corner)
          for (int half = 0; half < 2; ++half) halves[half] = numbers(bias + c + half * LANES);
#pragma GCC unroll 25
        for (int tap = 0; tap < TAPS; ++tap) {
          const float *x = patch + tap / K * width + tap % K, *w = weights + tap * C + c;
          const Vector left = numbers(w), right = numbers(w + LANES);
          for (int k = 0; k < CORNERS; ++k) {
            const float pixel = x[k / 2 * width + k % 2];
            corner[k][0] += left * pixel;
            corner[k][1] += right * pixel;
          }
        }
        for (int half = 0; half < 2; ++half) {
          Vector best = corner[0][half];
          Integers which = {};
          for (int k = 1; k < CORNERS; ++k) {
            const Vector x = corner[k][half];
            const Integers larger = (x > best) | (x != x);  // as torch, what is not a number wins
            best = larger ? x : best;
            which = larger ? Integers{} + k : which;
          }
          which = best > 0 ? which : Integers{} + NONE;
          keep(best <= 0 ? Vector{} : best, pooled + c + half * LANES);
          store(__builtin_convertvector(which, Bytes), chosen + c + half * LANES);
        }
      }
    }
}

// gradient and chosen (rows, windows, C) -> d_weights (K K, C), d_bias (C)
template <typename T>
void backward_map(const float *wide, int width, int rows, int windows, const T *gradient, const uint8_t *chosen, int C,
                  float *d_weights, float *d_bias) {
  for (int c = 0; c < C; c += LANES) {
    Vector sums[TAPS] = {}, sum = {};
    for (int row = 0; row < rows; ++row)
      for (int window = 0; window < windows; ++window) {
        const float *patch = wide + size_t(2 * row) * width + 2 * window;
        const size_t at = (size_t(row) * windows + window) * C + c;
        const Vector own = numbers(gradient + at);
        const Integers which = __builtin_convertvector(load<Bytes>(chosen + at), Integers);
        Vector corner[CORNERS];
        for (int k = 0; k < CORNERS; ++k) corner[k] = which == k ? own : Vector{};
        sum += which == NONE ? Vector{} : own;
#pragma GCC unroll 25
        for (int tap = 0; tap < TAPS; ++tap)
          for (int k = 0; k < CORNERS; ++k)
            sums[tap] += corner[k] * patch[(tap / K + k / 2) * width + tap % K + k % 2];
      }
    for (int tap = 0; tap < TAPS; ++tap) store(sums[tap], d_weights + tap * C + c);
    store(sum, d_bias + c);
  }
}

template <typename T>
void forward(const float *x, int N, int H, int W, int P, const float *weights, const float *bias, int C, T *pooled,
             uint8_t *chosen, int threads) {
  const int rows = (H + 2 * P - K + 1) / 2, windows = (W + 2 * P - K + 1) / 2;
  const size_t size = size_t(rows) * windows * C;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int n = 0; n < N; ++n)
    forward_map(padded(x + size_t(n) * H * W, H, W, P).data(), W + 2 * P, rows, windows, weights, bias, C,
                pooled + n * size, chosen + n * size);
}

// The gradients of each map, (N, K K, C) and (N, C): added up by the caller, so in an order without regard to threads.
template <typename T>
void backward(const float *x, int N, int H, int W, int P, const T *gradient, const uint8_t *chosen, int C,
              float *d_weights, float *d_bias, int threads) {
  const int rows = (H + 2 * P - K + 1) / 2, windows = (W + 2 * P - K + 1) / 2;
  const size_t size = size_t(rows) * windows * C;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int n = 0; n < N; ++n)
    backward_map(padded(x + size_t(n) * H * W, H, W, P).data(), W + 2 * P, rows, windows, gradient + n * size,
                 chosen + n * size, C, d_weights + size_t(n) * TAPS * C, d_bias + size_t(n) * C);
}

}  // namespace

#define FOR_NUMBERS(T, name)                                                                                          \
  extern "C" void forward_##name(const float *x, int N, int H, int W, int P, const float *weights, const float *bias, \
                                 int C, T *pooled, uint8_t *chosen, int threads) {                                    \
    forward(x, N, H, W, P, weights, bias, C, pooled, chosen, threads);                                                \
  }                                                                                                                   \
  extern "C" void backward_##name(const float *x, int N, int H, int W, int P, const T *gradient,                      \
                                  const uint8_t *chosen, int C, float *d_weights, float *d_bias, int threads) {       \
    backward(x, N, H, W, P, gradient, chosen, C, d_weights, d_bias, threads);                                         \
  }

FOR_NUMBERS(Single, float32)
FOR_NUMBERS(Bfloat16, bfloat16)
