// Attention, composition and its use in one pass, for single precision on a CPU: what `NeurocoderLinear` does between
// its dense products. No attention weight leaves the cache; the gradient computes them again.
//
// J steps, H heads, n = J H components, P slots, K key width, B inputs; memories m = 0, 1, 2 are U, V, S. Inputs are taken
// L at a time: a `Lanes` is one number for each of them, and every local array is an array of Lanes.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

constexpr int L = 8;
typedef float Lanes __attribute__((vector_size(4 * L)));
typedef int32_t Bits __attribute__((vector_size(4 * L)));

inline Lanes larger(Lanes a, Lanes b) { return a > b ? a : b; }
inline Lanes smaller(Lanes a, Lanes b) { return a < b ? a : b; }
inline Lanes same(float x) { return x - Lanes{}; }

// e^x for x <= 0 to a relative error of 2e-7: range reduction and the polynomial of Cephes' expf. e^0 is 1.
inline Lanes exp_below_zero(Lanes x) {
  x = x < -87.0f ? same(-87.0f) : x;  // not a number stays so
  const Lanes turns = x * 1.44269504f + 12582912.0f;  // rounds to an integer, which is in its low bits
  const Lanes whole = turns - 12582912.0f;
  const Lanes r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
  Lanes y = 1.9875691500e-4f * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * r * r + r + 1.0f;
  return y * (Lanes)(((Bits)turns + 127) << 23);
}

// log(1 + x) for x from 0 to 1: 2 artanh(x / (2 + x)), by its series.
inline Lanes log_one_plus(Lanes x) {
  const Lanes r = x / (2.0f + x), square = r * r;
  Lanes y = same(1.0f / 15);
  for (int odd = 13; odd > 0; odd -= 2) y = y * square + 1.0f / odd;
  return 2.0f * r * y;
}

// Calls f with K as a constant, for loops over it that are unrolled; 0 stands for any other K.
template <class F> auto with_constant(int K, F f) {
  switch (K) {
    case 2: return f(std::integral_constant<int, 2>());
    case 3: return f(std::integral_constant<int, 3>());
    case 5: return f(std::integral_constant<int, 5>());
    case 10: return f(std::integral_constant<int, 10>());
    default: return f(std::integral_constant<int, 0>());
  }
}

struct Sizes {
  int J, H, K, P, B;
  int least_used;   // 0: plain softmax attention, no gates
  int gate_steps;   // J, or 1 if all steps share their gates
  int signal_rows;  // 3 H K + 1 of each step
  int n() const { return J * H; }
};

struct Tensors {
  const float *signal;    // (J, signal_rows, B)
  const float *keys;      // (3, P, K), of length beta
  const float *gates;     // (gate_steps, 3, P, B)
  const float *in_slots;  // (P, B)
  const float *M_S;       // (P)
};

struct Gradients {
  float *signal, *keys, *gates, *in_slots, *M_S;  // shaped like `Tensors`; to keys and M_S is added, the rest is written
};

// Zeroed arrays of Lanes with given lengths, on aligned addresses in one piece of memory.
std::vector<float> carve(std::initializer_list<std::pair<Lanes **, size_t>> parts) {
  size_t rows = 1;
  for (auto &part : parts) rows += part.second;
  std::vector<float> memory(rows * L);
  const auto address = reinterpret_cast<uintptr_t>(memory.data());
  auto *next = reinterpret_cast<Lanes *>((address + sizeof(Lanes) - 1) / sizeof(Lanes) * sizeof(Lanes));
  for (auto &part : parts) {
    *part.first = next;
    next += part.second;
  }
  return memory;
}

// The inputs at hand: `count` of them from `first` on.
struct Columns {
  int first = 0, count = 0;

  Lanes load(const float *row) const {
    Lanes lanes = {};
    if (count == L) std::memcpy(&lanes, row + first, sizeof(Lanes));
    else
      for (int l = 0; l < count; ++l) lanes[l] = row[first + l];
    return lanes;
  }

  void store(float *row, Lanes lanes) const {
    if (count == L) std::memcpy(row + first, &lanes, sizeof(Lanes));
    else
      for (int l = 0; l < count; ++l) row[first + l] = lanes[l];
  }
};

// Everything that the forward pass computes for L inputs.
struct Block {
  const Sizes s;
  const Tensors t;
  Columns at;
  std::vector<float> memory;
  Lanes *query, *inverse_length;      // unit queries (3, n, K), and what they were multiplied by (3, n)
  Lanes *weight;                      // attention (3, n, P)
  Lanes *peak, *taken;                // (3, n, P): softmax over its largest; 1 where the weight became the slot's usage
  Lanes *gate, *candidate;            // (3, gate_steps, P), (3, J, P): least-used slots, by how unused they are
  Lanes *usage, *least;               // (P), and the least_used + 1 smallest of them, of the memory at hand
  Lanes *in, *out;                    // in_slots and out_slots (P)
  Lanes *read, *zeta, *soft, *sigma;  // (n): x . w^U, raw singular values, their softplus, singular values

  Block(const Sizes &s, const Tensors &t) : s(s), t(t) {
    const size_t n = s.n(), P = s.P, gated = s.least_used ? 1 : 0;
    memory = carve({{&query, 3 * n * s.K}, {&inverse_length, 3 * n}, {&weight, 3 * n * P},
                    {&peak, gated * 3 * n * P}, {&taken, gated * 3 * n * P},
                    {&gate, gated * 3 * s.gate_steps * P}, {&candidate, gated * 3 * s.J * P},
                    {&usage, P}, {&least, size_t(s.least_used) + 1},
                    {&in, P}, {&out, P}, {&read, n}, {&zeta, n}, {&soft, n}, {&sigma, n}});
  }

  // Rows of component c, or of step j, of memory m.
  Lanes *slots(Lanes *part, int m, int c) const { return part + (size_t(m) * s.n() + c) * s.P; }
  Lanes *queries(int m, int c) const { return query + (size_t(m) * s.n() + c) * s.K; }
  Lanes *gates(int m, int j) const { return gate + (size_t(m) * s.gate_steps + (s.gate_steps > 1 ? j : 0)) * s.P; }
  Lanes *candidates(int m, int j) const { return candidate + (size_t(m) * s.J + j) * s.P; }

  void forward(int first) {
    at = {first, std::min(L, s.B - first)};
    for (int p = 0; p < s.P; ++p) in[p] = at.load(t.in_slots + size_t(p) * s.B);
    for (int m = 0; m < 3; ++m) attend(m);
    compose();
  }

  void attend(int m) {
    if (s.least_used) {
      for (int j = 0; j < s.gate_steps; ++j)
        for (int p = 0; p < s.P; ++p) gates(m, j)[p] = at.load(t.gates + ((size_t(j) * 3 + m) * s.P + p) * s.B);
      // Before the first step no slot is used: the first ones are taken.
      for (int p = 0; p < s.P; ++p) candidates(m, 0)[p] = same(p < s.least_used ? 1.0f : 0.0f);
    }
    for (int j = 0; j < s.J; ++j) {
      for (int h = 0; h < s.H; ++h) {
        Lanes *w = slots(weight, m, j * s.H + h);
        const Lanes sum = with_constant(s.K, [&](auto K) { return exponentials<K>(m, j, h, w); });
        if (s.least_used) interpolate(m, j, j * s.H + h, w);
        else
          for (int p = 0; p < s.P; ++p) w[p] *= 1.0f / sum;
      }
      if (s.least_used && j + 1 < s.J) find_least_used(m, j + 1);
    }
  }

  // exp(beta cosine - its largest) into w; their sum.
  template <int CONSTANT_K> Lanes exponentials(int m, int j, int h, Lanes *__restrict w) {
    const int c = j * s.H + h, K = CONSTANT_K ? CONSTANT_K : s.K;
    Lanes *q = queries(m, c), square = same(1e-12f), largest = same(-1e30f), sum = {};
    for (int k = 0; k < K; ++k) {
      q[k] = at.load(t.signal + (size_t(j) * s.signal_rows + (m * s.H + h) * s.K + k) * s.B);
      square += q[k] * q[k];
    }
    Lanes inverse;
    for (int l = 0; l < L; ++l) inverse[l] = 1.0f / std::sqrt(square[l]);
    inverse_length[size_t(m) * s.n() + c] = inverse;
    for (int k = 0; k < K; ++k) q[k] *= inverse;
    const float *key = t.keys + size_t(m) * s.P * K;
    for (int p = 0; p < s.P; ++p, key += K) {
      Lanes score = {};
      for (int k = 0; k < K; ++k) score += key[k] * q[k];
      largest = larger(largest, score);
      w[p] = score;
    }
    for (int p = 0; p < s.P; ++p) sum += w[p] = exp_below_zero(w[p] - largest);
    return sum;
  }

  void interpolate(int m, int j, int c, Lanes *w) {
    Lanes *top = slots(peak, m, c), *took = slots(taken, m, c), *g = gates(m, j), *unused = candidates(m, j);
    for (int p = 0; p < s.P; ++p) {
      top[p] = w[p];
      w[p] += g[p] * (unused[p] - w[p]);
      const Lanes before = c ? usage[p] : same(-1.0f);
      took[p] = w[p] > before ? same(1.0f) : same(0.0f);
      usage[p] = larger(w[p], before);
    }
  }

  // Candidates of step j: the slots that were used less than the (least_used + 1)-th least used one.
  void find_least_used(int m, int j) {
    for (int i = 0; i <= s.least_used; ++i) least[i] = same(1e30f);
    for (int p = 0; p < s.P; ++p) {
      Lanes value = usage[p];
      for (int i = 0; i <= s.least_used; ++i) {
        const Lanes low = smaller(least[i], value);
        value = larger(least[i], value);
        least[i] = low;
      }
    }
    for (int p = 0; p < s.P; ++p) candidates(m, j)[p] = usage[p] < least[s.least_used] ? 1.0f - usage[p] : same(0.0f);
  }

  void compose() {
    const int n = s.n();
    for (int c = 0; c < n; ++c) {
      const Lanes *w_U = slots(weight, 0, c), *w_S = slots(weight, 2, c);
      Lanes from_U = {}, from_S = {};
      for (int p = 0; p < s.P; ++p) {
        from_U += in[p] * w_U[p];
        from_S += t.M_S[p] * w_S[p];
      }
      read[c] = from_U;
      zeta[c] = from_S;
      const Lanes e = exp_below_zero(from_S > 0.0f ? -from_S : from_S);
      soft[c] = (from_S > 0.0f ? from_S : same(0.0f)) + log_one_plus(e);
    }
    for (int p = 0; p < s.P; ++p) out[p] = Lanes{};
    for (int c = n - 1; c >= 0; --c) {  // a singular value is the next smaller one and more
      sigma[c] = c + 1 < n ? sigma[c + 1] + soft[c] : soft[c];
      const Lanes component = read[c] * sigma[c], *w_V = slots(weight, 1, c);
      for (int p = 0; p < s.P; ++p) out[p] += component * w_V[p];
    }
  }
};

// The gradients of L inputs, after their forward pass, and the sums of those of keys and M_S over all passes so far.
struct BlockGradient {
  const Block &b;
  const Sizes s;
  const Tensors t;
  const Gradients to;
  std::vector<float> memory;
  Lanes *d_weight, *d_in, *d_out, *d_usage, *d_candidate, *d_gate, *d_query;  // as in Block
  Lanes *d_M_S, *d_keys;                                                      // (P), (3, P, K)

  BlockGradient(const Block &block, const Gradients &to) : b(block), s(block.s), t(block.t), to(to) {
    const size_t n = s.n(), P = s.P;
    memory = carve({{&d_weight, 3 * n * P}, {&d_in, P}, {&d_out, P}, {&d_usage, P}, {&d_candidate, P},
                    {&d_gate, size_t(s.gate_steps) * P}, {&d_query, size_t(s.K)},
                    {&d_M_S, P}, {&d_keys, 3 * P * s.K}});
  }

  void backward(const float *d_out_slots, const float *d_smallest) {
    for (int p = 0; p < s.P; ++p) d_out[p] = b.at.load(d_out_slots + size_t(p) * s.B);
    compose(b.at.load(d_smallest));
    for (int m = 0; m < 3; ++m) attend(m);
    for (int p = 0; p < s.P; ++p) b.at.store(to.in_slots + size_t(p) * s.B, d_in[p]);
  }

  void compose(Lanes d_smallest) {
    const int n = s.n();
    Lanes d_soft = {};  // of component c, a part of this and all larger singular values
    for (int p = 0; p < s.P; ++p) d_in[p] = Lanes{};
    for (int c = 0; c < n; ++c) {
      const Lanes *w_U = b.slots(b.weight, 0, c), *w_V = b.slots(b.weight, 1, c);
      Lanes *d_U = b.slots(d_weight, 0, c), *d_V = b.slots(d_weight, 1, c);
      const Lanes component = b.read[c] * b.sigma[c];
      Lanes d_component = {};
      for (int p = 0; p < s.P; ++p) {
        d_component += d_out[p] * w_V[p];
        d_V[p] = d_out[p] * component;
      }
      const Lanes d_read = d_component * b.sigma[c];
      d_soft += d_component * b.read[c] + (c == n - 1 ? d_smallest : Lanes{});
      const Lanes *w_S = b.slots(b.weight, 2, c), zeta = b.zeta[c];
      Lanes *d_S = b.slots(d_weight, 2, c);
      const Lanes e = exp_below_zero(zeta > 0.0f ? -zeta : zeta);  // the gradient of softplus is the sigmoid
      const Lanes d_zeta = d_soft * (zeta > 0.0f ? same(1.0f) : e) / (1.0f + e);
      for (int p = 0; p < s.P; ++p) {
        d_in[p] += d_read * w_U[p];
        d_U[p] = d_read * b.in[p];
        d_M_S[p] += d_zeta * w_S[p];
        d_S[p] = d_zeta * t.M_S[p];
      }
    }
  }

  void attend(int m) {
    if (s.least_used) {
      for (int p = 0; p < s.P; ++p) d_usage[p] = Lanes{};
      for (int p = 0; p < s.gate_steps * s.P; ++p) d_gate[p] = Lanes{};
    }
    for (int j = s.J - 1; j >= 0; --j) {
      if (s.least_used)
        for (int p = 0; p < s.P; ++p) d_candidate[p] = Lanes{};
      for (int h = s.H - 1; h >= 0; --h) {
        Lanes *d = b.slots(d_weight, m, j * s.H + h);  // becomes the gradient of the scores
        if (s.least_used) interpolate(m, j, j * s.H + h, d);
        else normalise(m, j * s.H + h, d);
        with_constant(s.K, [&](auto K) { scores<K>(m, j, h, d); });
      }
      if (s.least_used && j > 0) {  // the candidates were 1 - usage after the step before
        const Lanes *unused = b.candidates(m, j);
        for (int p = 0; p < s.P; ++p) d_usage[p] -= unused[p] > 0.0f ? d_candidate[p] : same(0.0f);
      }
    }
    if (s.least_used)
      for (int j = 0; j < s.gate_steps; ++j)
        for (int p = 0; p < s.P; ++p)
          b.at.store(to.gates + ((size_t(j) * 3 + m) * s.P + p) * s.B, d_gate[j * s.P + p]);
  }

  void normalise(int m, int c, Lanes *d) const {
    const Lanes *w = b.slots(b.weight, m, c);
    Lanes mean = {};
    for (int p = 0; p < s.P; ++p) mean += w[p] * d[p];
    for (int p = 0; p < s.P; ++p) d[p] = w[p] * (d[p] - mean);
  }

  void interpolate(int m, int j, int c, Lanes *d) {
    const Lanes *top = b.slots(b.peak, m, c), *took = b.slots(b.taken, m, c);
    const Lanes *g = b.gates(m, j), *unused = b.candidates(m, j);
    Lanes *d_g = d_gate + (s.gate_steps > 1 ? j : 0) * s.P, sum = {}, largest = {};
    for (int p = 0; p < s.P; ++p) {
      const Lanes d_w = d[p] + took[p] * d_usage[p];
      d_usage[p] -= took[p] * d_usage[p];
      d_g[p] += d_w * (unused[p] - top[p]);
      d_candidate[p] += d_w * g[p];
      d[p] = d_w * (1.0f - g[p]) * top[p];
      sum += d[p];
      largest += top[p] == 1.0f ? same(1.0f) : same(0.0f);
    }
    const Lanes share = sum / largest;  // every score is taken relative to the largest
    for (int p = 0; p < s.P; ++p) d[p] -= top[p] == 1.0f ? share : same(0.0f);
  }

  template <int CONSTANT_K> void scores(int m, int j, int h, const Lanes *__restrict d) {
    const int c = j * s.H + h, K = CONSTANT_K ? CONSTANT_K : s.K;
    const Lanes *q = b.queries(m, c), inverse = b.inverse_length[size_t(m) * s.n() + c];
    Lanes registers[CONSTANT_K ? CONSTANT_K : 1];
    Lanes *d_q = CONSTANT_K ? registers : d_query, along = {};
    Lanes *__restrict d_key = d_keys + size_t(m) * s.P * K;
    for (int k = 0; k < K; ++k) d_q[k] = Lanes{};
    const float *key = t.keys + size_t(m) * s.P * K;
    for (int p = 0; p < s.P; ++p, key += K, d_key += K)
      for (int k = 0; k < K; ++k) {
        d_q[k] += key[k] * d[p];
        d_key[k] += q[k] * d[p];
      }
    for (int k = 0; k < K; ++k) along += q[k] * d_q[k];
    for (int k = 0; k < K; ++k)
      b.at.store(to.signal + (size_t(j) * s.signal_rows + (m * s.H + h) * K + k) * s.B,
                 inverse * (d_q[k] - q[k] * along));
  }

  // Adds what was summed.
  void finish() const {
    for (int p = 0; p < s.P; ++p)
      for (int l = 0; l < L; ++l) to.M_S[p] += d_M_S[p][l];
    for (int i = 0; i < 3 * s.P * s.K; ++i)
      for (int l = 0; l < L; ++l) to.keys[i] += d_keys[i][l];
  }
};

}  // namespace

extern "C" void attend(const Sizes *s, const Tensors *t, float *out_slots, float *smallest, int threads) {
#pragma omp parallel num_threads(threads)
  {
    Block block(*s, *t);
#pragma omp for schedule(static)
    for (int first = 0; first < s->B; first += L) {
      block.forward(first);
      for (int p = 0; p < s->P; ++p) block.at.store(out_slots + size_t(p) * s->B, block.out[p]);
      block.at.store(smallest, block.sigma[s->n() - 1]);
    }
  }
}

extern "C" void attend_backward(const Sizes *s, const Tensors *t, const float *d_out_slots, const float *d_smallest,
                                const Gradients *to, int threads) {
  std::vector<std::unique_ptr<Block>> blocks;
  std::vector<std::unique_ptr<BlockGradient>> gradients;
  for (int i = 0; i < threads; ++i) {
    blocks.push_back(std::make_unique<Block>(*s, *t));
    gradients.push_back(std::make_unique<BlockGradient>(*blocks[i], *to));
  }
  // Each thread's share is fixed, and so is the order of the sums.
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int i = 0; i < threads; ++i) {
    const int count = (s->B + L - 1) / L;
    for (int k = count * i / threads; k < count * (i + 1) / threads; ++k) {
      blocks[i]->forward(k * L);
      gradients[i]->backward(d_out_slots, d_smallest);
    }
  }
  for (auto &gradient : gradients) gradient->finish();
}
