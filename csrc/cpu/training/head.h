// A vocabulary head and its cross-entropy for one client, a chunk of rows at a time: the logits of a chunk never leave the
// cache, and only rows that have a target are computed.
//
// The logits of a chunk lie transposed, [V][rows]. So the softmax runs down the vocabulary with a row in every lane,
// and W is read in place. The chunk serves as the left operand of both products of the backward pass as it is. It is
// not normalised either. With e the exponentials and s their sum, the gradient of a logit is (e - s [v = target]) *
// share / s. The factor share / s is multiplied into the smaller operands.
//
// Where a word holds two elements (formats.h), a product over the vocabulary takes pairs of tokens, and one over rows takes pairs of
// rows. So the exponentials of two tokens and a vector of rows are written back twice, in the place of the two logits' vectors: as
// words of both tokens a row, and as words of neighbouring rows, first those of one token, then those of the other.
#pragma once

#include <math.h>

#include "../../training.h"
#include "../common/multiply.h"

namespace {

template <class F>
struct HeadClient {
  using T = Real<F>;
  int64_t N, V, I, D, experts;
  const T *x, *proj_w, *proj_b, *w[2], *b[2], *q;
  const int64_t *targets;
  double *nats;
  int64_t *count, *best;
  T *row_nats, *probability;
  T *dx, *dq, *dproj_w, *dproj_b, *dw[2], *db[2];

  HeadClient(const FlowHead &p, int64_t k) : N(p.N), V(p.V), I(p.I), D(p.D), experts(p.w[1] ? 2 : 1) {
    x = of(p.x, k * N * I), proj_w = of(p.proj_w, k * D * I), proj_b = of(p.proj_b, k * D), q = of(p.q, k * N * 2);
    dx = of(p.dx, k * N * I), dproj_w = of(p.dproj_w, k * D * I), dproj_b = of(p.dproj_b, k * D), dq = of(p.dq, k * N * 2);
    for (int e = 0; e < 2; ++e) {
      w[e] = of(p.w[e], k * V * D), b[e] = of(p.b[e], k * V);
      dw[e] = of(p.dw[e], k * V * D), db[e] = of(p.db[e], k * V);
    }
    targets = p.targets + k * N;
    nats = p.nats + k, count = p.counts + k;
    best = p.best ? p.best + k * N : nullptr;
    row_nats = of(p.row_nats, k * N), probability = of(p.probability, k * N);
  }
  static const T *of(const void *base, int64_t offset) { return base ? static_cast<const T *>(base) + offset : nullptr; }
  static T *of(void *base, int64_t offset) { return base ? static_cast<T *>(base) + offset : nullptr; }

  bool below() const { return dx || dq || dproj_w || dproj_b; }  // whether the features need a gradient
  bool backward() const { return below() || dw[0] || db[0] || dw[1] || db[1]; }
};

template <class F>
struct HeadScratch {
  static constexpr int64_t W = Simd<Real<F>>::width;
  static constexpr int64_t kBytes = 1 << 20;  // of logits, about what the second cache holds
  static constexpr int64_t kBlock = 256;      // tokens whose weights are packed at a time
  int64_t rows, ld, features, logits, packed, lanes, block, grads, turned, copies, total;

  static int64_t most(int64_t a, int64_t b, int64_t c) { return a > b ? (a > c ? a : c) : (b > c ? b : c); }
  static int64_t whole(int64_t n) { return (n + W - 1) / W * W; }

  explicit HeadScratch(const HeadClient<F> &c) {
    const int64_t fit = kBytes / (int64_t)sizeof(Real<F>) / c.V / (kPanel * W) * (kPanel * W), all = whole(c.N);
    rows = fit < kPanel * W ? kPanel * W : fit;
    if (rows > all) rows = all;
    const int64_t chunks = (all + rows - 1) / rows;
    rows = whole((all + chunks - 1) / chunks);  // of about equal size: a small last one would use the multipliers badly
    ld = whole(rows);
    const int64_t wide = whole(c.D), vocabulary = c.V < kBlock ? c.V : kBlock;
    int64_t at = whole(c.N * (int64_t)(sizeof(int64_t) / sizeof(Real<F>)));  // behind the numbers of the rows that count
    auto take = [&](int64_t n) {
      const int64_t from = at;
      at += whole(n);
      return from;
    };
    logits = take(words<F>(c.V) * F::group * ld);
    features = take(c.proj_w ? rows * wide : 0);
    // the largest of what is packed, one after the other: features by row or by column, the projection, its input
    const int64_t widest = most(wide, whole(c.I), ld), longest = most(c.D, c.I, ld);
    packed = take(c.experts * widest * longest);
    lanes = take(8 * ld);
    block = take(vocabulary * (F::group == 1 ? wide : most(wide, c.experts * whole(words<F>(c.D)), 0)));
    grads = take(c.below() ? c.experts * rows * wide : 0);
    turned = take(c.proj_w ? c.D * ld : 0);
    const int64_t of_rows = whole(words<F>(c.I > c.D ? c.I : c.D)), across = whole(words<F>(ld));
    const int64_t below = c.below() ? turned_words<F>(rows, words<F>(vocabulary)) : 0;
    copies = take(F::group > 1 && c.proj_w ? most(rows * of_rows, c.D * across, below) : below);
    total = at;
  }
};

template <class F>
struct HeadRun {
  using T = Real<F>;
  static constexpr int64_t W = Simd<T>::width;
  const HeadClient<F> &c;
  const HeadScratch<F> at;
  T *scratch, *logits, *biggest, *sums, *factor, *gate[2], *bias_dot[2];
  int64_t *rows;  // of the client, those that count
  int64_t valid = 0;

  HeadRun(const HeadClient<F> &c, T *scratch) : c(c), at(c), scratch(scratch), logits(scratch + at.logits) {
    T *lane = scratch + at.lanes, **const all[] = {&biggest, &sums, &factor, &gate[0], &gate[1], &bias_dot[0], &bias_dot[1]};
    for (T **one : all) *one = lane, lane += at.ld;
    rows = reinterpret_cast<int64_t *>(scratch);
  }

  void run() {
    for (int64_t n = 0; n < c.N; ++n)
      if (c.targets[n] >= 0) rows[valid++] = n;
    *c.count = valid;
    *c.nats = 0;
    clear(c.dx, c.N * c.I), clear(c.dq, c.N * 2);
    clear(c.row_nats, c.N), clear(c.probability, c.N);
    if (c.best)
      for (int64_t n = 0; n < c.N; ++n) c.best[n] = -1;
    if (!valid) {
      for (int e = 0; e < 2; ++e) clear(c.dw[e], c.V * c.D), clear(c.db[e], c.V);
      clear(c.dproj_w, c.D * c.I), clear(c.dproj_b, c.D);
    }
    for (int64_t first = 0; first < valid; first += at.rows) {
      const int64_t n = valid - first < at.rows ? valid - first : at.rows;
      Chunk(*this, first, n).run();
    }
  }
  static void clear(T *p, int64_t n) {
    if (p) memset(p, 0, (size_t)n * sizeof(T));
  }

  struct Chunk {
    HeadRun &h;
    const HeadClient<F> &c;
    const int64_t first, n, ld;
    const Panels columns;  // of the chunk's rows as lanes
    const bool fresh;

    Chunk(HeadRun &h, int64_t first, int64_t n)
        : h(h), c(h.c), first(first), n(n), ld((n + W - 1) / W * W), columns(n, W), fresh(first == 0) {}

    const T *input(int64_t i) const { return c.x + h.rows[first + i] * c.I; }
    const T *feature(int64_t i) const {
      return c.proj_w ? h.scratch + h.at.features + i * HeadScratch<F>::whole(c.D) : input(i);
    }
    int64_t target(int64_t i) const { return c.targets[h.rows[first + i]]; }

    void run() {
      if (c.proj_w) project();
      gates();
      score();
      if (c.best) choose();
      exponentials();
      if (!c.backward()) return;
      factors();
      biases();
      if (c.below()) below();
      weights();
    }

    // features = x P^T + p
    void project() {
      const Panels panels(c.D, W);
      T *packed = h.scratch + h.at.packed, *out = h.scratch + h.at.features;
      const int64_t wide = HeadScratch<F>::whole(c.D);
      pack_transposed<F>(packed, panels, c.D, c.I, [&](int64_t d) { return c.proj_w + d * c.I; }, [](int64_t) { return T(1); });
      multiply<F>(
          n, words<F>(c.I), copied(n, c.I, [&](int64_t i) { return input(i); }), packed, panels,
          [&](auto &s, int64_t, int64_t vector) {
            for (auto &row : s) {
              int64_t j = vector;
              for (auto &v : row) v = load_some<T>(c.proj_b + j * W, c.D - j * W), ++j;
            }
          },
          [&](auto &s, int64_t m, int64_t vector) {
            for (auto &row : s) {
              int64_t j = vector;
              for (auto &v : row) store(out + m * wide + j * W, v), ++j;
              ++m;
            }
          });
    }

    // n rows of K numbers as words
    template <class Row>
    auto copied(int64_t n, int64_t K, Row row) const {
      return rows_of_words<F>(h.scratch + h.at.copies, HeadScratch<F>::whole(words<F>(K)), n, K, row);
    }

    // Weights of the experts, a row in every lane
    void gates() {
      for (int e = 0; e < c.experts; ++e)
        for (int64_t i = 0; i < ld; ++i) h.gate[e][i] = c.experts == 1 ? T(1) : i < n ? c.q[2 * h.rows[first + i] + e] : T(0);
    }

    // logits [V][ld], and the biggest of every row
    void score() {
      T *packed[2];
      for (int e = 0; e < c.experts; ++e) {
        packed[e] = h.scratch + h.at.packed + e * packed_size(columns, W, words<F>(c.D));
        pack_transposed<F>(packed[e], columns, n, c.D, [&](int64_t i) { return feature(i); }, [&](int64_t i) { return h.gate[e][i]; });
      }
      for (int64_t i = 0; i < ld; i += W) store(h.biggest + i, broadcast(-T(INFINITY)));
      // weights that have to become words first do so a block at a time, which stays in cache while all panels read it
      const int64_t some = F::group == 1 || c.V < HeadScratch<F>::kBlock ? c.V : HeadScratch<F>::kBlock;
      for (int64_t v = 0; v < c.V; v += some) {
        const int64_t end = v + some < c.V ? v + some : c.V;
        c.experts == 1 ? products<1>(packed, v, end - v, some) : products<2>(packed, v, end - v, some);
      }
    }

    // Of the `count` tokens from `begin` on
    template <int E>
    void products(T *const (&packed)[2], int64_t begin, int64_t count, int64_t most) {
      const int64_t step = HeadScratch<F>::whole(words<F>(c.D));
      T *block = h.scratch + h.at.block;
      const auto of_token = [&](int e, int64_t v) { return c.w[e] + (begin + v) * c.D; };
      for (int e = 0; e < E; ++e) rows_of_words<F>(block + e * most * step, step, count, c.D, [&](int64_t v) { return of_token(e, v); });
      const auto weights = [&](int e, int64_t v) -> const T * {
        return F::group == 1 ? of_token(e, v) : block + (e * most + v) * step;
      };
      for (int64_t p = 0; p < columns.count; ++p)
        with_vectors(columns.size(p), [&](auto vectors) {
          constexpr int NV = decltype(vectors)::value;
          const int64_t vector = columns.first(p);
          Vec<T> biggest[NV], gate[E][NV];
          for (int j = 0; j < NV; ++j) {
            biggest[j] = load(h.biggest + (vector + j) * W);
            for (int e = 0; e < E; ++e) gate[e][j] = load(h.gate[e] + (vector + j) * W);
          }
          rows_by_panel<F, NV>(
              count, E, words<F>(c.D), weights, [&](int e) { return packed[e] + vector * words<F>(c.D) * W; },
              [&](auto &s, int64_t v) {
                for (auto &row : s) {
                  for (int j = 0; j < NV; ++j) {
                    row[j] = gate[0][j] * c.b[0][begin + v];
                    if constexpr (E == 2) row[j] += gate[1][j] * c.b[1][begin + v];
                  }
                  ++v;
                }
              },
              [&](auto &s, int64_t v) {
                for (auto &row : s) {
                  for (int j = 0; j < NV; ++j) {
                    store(h.logits + (begin + v) * ld + (vector + j) * W, row[j]);
                    biggest[j] = row[j] > biggest[j] ? row[j] : biggest[j];
                  }
                  ++v;
                }
              });
          for (int j = 0; j < NV; ++j) store(h.biggest + (vector + j) * W, biggest[j]);
        });
    }

    // The first token with the biggest logit; a NaN is bigger than any other number.
    void choose() {
      for (int64_t i = 0; i < ld; i += W) {
        Vec<T> most = load(h.logits + i);
        IVec<T> which = {};
        for (int64_t v = 1; v < c.V; ++v) {
          const Vec<T> s = load(h.logits + v * ld + i);
          const IVec<T> more = (s > most) | ((s != s) & (most == most));
          most = more ? s : most;
          which = more ? IVec<T>{} + (decltype(which[0] + 0))v : which;
        }
        for (int64_t j = 0; j < W && i + j < n; ++j) c.best[h.rows[first + i + j]] = which[j];
      }
    }

    static Vec<T> exponential(const T *logits, Vec<T> biggest) {
      const Reduced<T> e = reduce_exp<T>(load(logits) - biggest);
      return e.scale + e.scale * e.minus_one;
    }

    // logits <- exp(logit - biggest), their sums, and the loss, also row by row
    void exponentials() {
      const bool keep = c.backward();
      for (int64_t i = 0; i < n; ++i) h.factor[i] = h.logits[target(i) * ld + i];
      for (int64_t p = 0; p < columns.count; ++p)
        with_vectors(columns.size(p), [&](auto vectors) {
          constexpr int NV = decltype(vectors)::value;
          const int64_t from = columns.first(p) * W;
          Vec<T> biggest[NV], all[NV] = {};
          for (int j = 0; j < NV; ++j) biggest[j] = load(h.biggest + from + j * W);
          for (int64_t v = 0; v < c.V;) {
            Vec<T> some[NV] = {};
            for (const int64_t end = v + 64 < c.V ? v + 64 : c.V; v < end; v += F::group)
              for (int j = 0; j < NV; ++j) {
                T *one = h.logits + v * ld + from + j * W, *other = one + ld;
                const Vec<T> value = exponential(one, biggest[j]);
                some[j] += value;
                if constexpr (F::group == 1) {
                  if (keep) store(one, value);
                } else {
                  const Vec<T> next = v + 1 < c.V ? exponential(other, biggest[j]) : Vec<T>{};
                  some[j] += next;
                  if (keep) store(one, interleaved(value, next)), store(other, pairs(value, next));
                }
              }
            for (int j = 0; j < NV; ++j) all[j] += some[j];
          }
          for (int j = 0; j < NV; ++j) store(h.sums + from + j * W, all[j]);
        });
      double nats = 0;
      for (int64_t i = 0; i < n; ++i) {
        const double row = log((double)h.sums[i]) + ((double)h.biggest[i] - (double)h.factor[i]);
        nats += row;
        if (c.row_nats) c.row_nats[h.rows[first + i]] = (T)row;
        if (c.probability) c.probability[h.rows[first + i]] = T(1) / h.sums[i];
      }
      *c.nats += nats;
    }

    // logits <- gradient of the loss by the logit, but for a factor a row
    void factors() {
      for (int64_t i = 0; i < n; ++i) {
        const int64_t t = target(i);
        if constexpr (F::group == 1) {
          h.logits[t * ld + i] -= h.sums[i];
        } else {  // of the exponential as it was before it was rounded: the difference may be small
          const T gradient = (T)exp((double)h.factor[i] - (double)h.biggest[i]) - h.sums[i];
          put(reinterpret_cast<bf16 *>(h.logits + (t & ~1) * ld + i) + (t & 1), gradient);
          put(of_token(t, i / W * W) + i % W, gradient);
        }
      }
      for (int64_t i = 0; i < ld; ++i) h.factor[i] = i < n ? T(1) / ((T)h.valid * h.sums[i]) : T(0);
    }
    // A token's gradients by W logits from i on, as they lie after exponentials().
    bf16 *of_token(int64_t v, int64_t i) const { return reinterpret_cast<bf16 *>(h.logits + (v | 1) * ld + i) + (v & 1) * W; }
    Vec<T> gradients(int64_t v, int64_t i) const {
      if constexpr (F::group == 1) {
        return load(h.logits + v * ld + i);
      } else {
        return load(of_token(v, i));
      }
    }

    // db_e[v] = sum of gradient * q_e over the rows; bias_dot_e[row] = sum of gradient * b_e over the tokens
    void biases() {
      const bool dots = c.dq != nullptr;
      if (!c.db[0] && !c.db[1] && !dots) return;
      T *weighted[2] = {h.sums, h.biggest};  // not needed any more
      for (int e = 0; e < c.experts; ++e)
        for (int64_t i = 0; i < ld; i += W) {
          store(weighted[e] + i, load(h.factor + i) * load(h.gate[e] + i));
          store(h.bias_dot[e] + i, Vec<T>{});
        }
      for (int e = 0; e < c.experts; ++e)
        if (c.db[e]) bias_gradients(c.db[e], weighted[e]);
      for (int64_t v = 0; v < c.V && dots; ++v) {
        for (int e = 0; e < c.experts; ++e) {
          for (int64_t i = 0; i < ld; i += W)
            store(h.bias_dot[e] + i, load(h.bias_dot[e] + i) + gradients(v, i) * c.b[e][v]);
        }
      }
    }

    // db[v] (+)= sum of the gradients of token v by the rows, each times its number in `weighted`, which is overwritten
    void bias_gradients(T *db, T *weighted) const {
      const auto join = [&](int64_t v, T sum) { db[v] = fresh ? sum : sum + db[v]; };
      if constexpr (F::group == 1) {
        for (int64_t v = 0; v < c.V; ++v) {
          Vec<T> s = {};
          for (int64_t i = 0; i < ld; i += W) s += load(h.logits + v * ld + i) * load(weighted + i);
          join(v, sum_lanes<T>(s));
        }
      } else {  // of two tokens at a time, whose words lie side by side
        for (int64_t i = 0; i < ld; i += W) {
          const Vec<T> both = load(weighted + i);
          store(weighted + i, pairs(both, both));
        }
        for (int64_t v = 0; v < c.V; v += 2) {
          Vec<T> s = {};
          for (int64_t i = 0; i < ld; i += W) multiply_add<F>(s, load(h.logits + (v + 1) * ld + i), load(weighted + i));
          T sums[2] = {};
          for (int i = 0; i < W; ++i) sums[i >= W / 2] += s[i];
          join(v, sums[0]);
          if (v + 1 < c.V) join(v + 1, sums[1]);
        }
      }
    }

    // Gradients of features and q, and of what lies below a projection
    void below() {
      const Panels panels(c.D, W);
      const int64_t wide = HeadScratch<F>::whole(c.D);
      T *block = h.scratch + h.at.block, *grads = h.scratch + h.at.grads;
      for (int e = 0; e < c.experts; ++e) {
        T *sum = grads + e * h.at.rows * wide;
        for (int64_t v = 0; v < c.V; v += HeadScratch<F>::kBlock) {
          const int64_t some = c.V - v < HeadScratch<F>::kBlock ? c.V - v : HeadScratch<F>::kBlock;
          pack_straight<F>(block, panels, c.D, some, [&](int64_t k) { return c.w[e] + (v + k) * c.D; },
                           [](int64_t) { return T(1); });
          multiply_columns<F>(
              n, words<F>(some), h.logits + v * ld, ld * F::group, block, panels, h.scratch + h.at.copies,
              [&](auto &s, int64_t m, int64_t vector) {
                for (auto &row : s) {
                  int64_t j = vector;
                  for (auto &one : row) one = v ? load(sum + m * wide + j * W) : Vec<T>{}, ++j;
                  ++m;
                }
              },
              [&](auto &s, int64_t m, int64_t vector) {
                for (auto &row : s) {
                  int64_t j = vector;
                  for (auto &one : row) store(sum + m * wide + j * W, one), ++j;
                  ++m;
                }
              });
        }
      }
      for (int64_t i = 0; i < n; ++i) {
        const int64_t row = h.rows[first + i];
        T *of[2] = {grads + i * wide, grads + (h.at.rows + i) * wide};
        if (c.dq)
          for (int e = 0; e < c.experts; ++e)
            c.dq[2 * row + e] = h.factor[i] * (dot<T, T>(of[e], feature(i), c.D) + h.bias_dot[e][i]);
        for (int64_t d = 0; d < wide; d += W) {
          Vec<T> s = load(of[0] + d) * h.gate[0][i];
          if (c.experts == 2) s += load(of[1] + d) * h.gate[1][i];
          store(of[0] + d, s * h.factor[i]);
        }
        if (!c.proj_w && c.dx) memcpy(c.dx + row * c.I, of[0], (size_t)c.I * sizeof(T));
      }
      if (c.proj_w && (c.dx || c.dproj_w || c.dproj_b)) below_projection(grads, wide);
    }

    void below_projection(const T *grads, int64_t wide) {
      const Panels inputs(c.I, W), across(n, W);
      T *packed = h.scratch + h.at.packed, *turned = h.scratch + h.at.turned;
      auto one = [](int64_t) { return T(1); };
      if (c.dx) {
        pack_straight<F>(packed, inputs, c.I, c.D, [&](int64_t d) { return c.proj_w + d * c.I; }, one);
        multiply<F>(
            n, words<F>(c.D), copied(n, c.D, [&](int64_t i) { return grads + i * wide; }), packed, inputs, Zero(),
            [&](auto &s, int64_t m, int64_t vector) {
              for (auto &row : s) {
                T *out = c.dx + h.rows[first + m++] * c.I;
                int64_t j = vector;
                for (auto &v : row) store_some(out + j * W, v, c.I - j * W), ++j;
              }
            });
      }
      if (!c.dproj_w && !c.dproj_b) return;
      for (int64_t d = 0; d < c.D; ++d) {
        T *row = turned + d * ld, some = 0;
        for (int64_t i = 0; i < n; ++i) some += row[i] = grads[i * wide + d];
        if (c.dproj_b) c.dproj_b[d] = some + (fresh ? T(0) : c.dproj_b[d]);
      }
      if (!c.dproj_w) return;
      pack_straight<F>(packed, inputs, c.I, n, [&](int64_t i) { return input(i); }, one);
      multiply<F>(n ? c.D : 0, words<F>(n), copied(c.D, n, [&](int64_t d) { return turned + d * ld; }), packed, inputs, Zero(),
                  adding(c.dproj_w, c.I));
    }

    // dW_e[v] = sum over the rows of gradient * q_e * feature
    void weights() {
      const Panels panels(c.D, W);
      T *packed = h.scratch + h.at.packed;
      for (int e = 0; e < c.experts; ++e) {
        if (!c.dw[e]) continue;
        pack_straight<F>(packed, panels, c.D, n, [&](int64_t i) { return feature(i); },
                         [&](int64_t i) { return h.factor[i] * h.gate[e][i]; });
        if constexpr (F::group == 1) {
          multiply<F>(c.V, n, [&](int64_t v) { return h.logits + v * ld; }, packed, panels, Zero(), adding(c.dw[e], c.D));
        } else {
          multiply<F, W / 2>(c.V, words<F>(n), [&](int64_t v) { return reinterpret_cast<const T *>(of_token(v, 0)); }, packed, panels,
                             Zero(), adding(c.dw[e], c.D));
        }
      }
    }

    // Tiles of a result [.., width] that the chunks before have begun
    auto adding(T *out, int64_t width) const {
      return [this, out, width](auto &s, int64_t m, int64_t vector) {
        for (auto &row : s) {
          int64_t j = vector;
          for (auto &v : row) {
            T *to = out + m * width + j * W;
            const int64_t left = width - j * W;
            store_some(to, fresh ? v : v + load_some<T>(to, left), left);
            ++j;
          }
          ++m;
        }
      };
    }
  };
};

}  // namespace
