// Gradients of class scores, and sums of components' gradients that the attacks step along.
#pragma once

#include "core/views.hpp"
#include "scorer.hpp"

namespace mfa::cuda {

using mfa::Rule;

// Sums sum_k share_ik S_k^-1 (x_i - mu_k) of some rows. The shares take the place of the scores' errors.
template <class S>
class Gradients {
 public:
  void lay_out(Arena& arena, const ModelView& model, std::size_t stride);

  // Computes  the sums, from shares (K, stride) in scorer.scores().errors, of which a row has no more than most_terms that
  //           are not 0, all of components that have been scored.
  // Cost      4 d L flops in double for every share; one read of the row for each of its shares.
  // Numerics  S^-1 (x - mu) = D^-1 (x - mu - A z) in double; a row's terms are added up in the order of the components.
  // Source    Woodbury identity; docs/theory.md, section 3.
  void add_up(Stream stream, const Rows<S>& rows, Scorer<S>& scorer, std::size_t most_terms);
  // Computes  g^T S_k^-1 g for the same shares, into the scores' values.
  // Cost      2 d (L + 1) flops in double for every share.
  // Numerics  |g|_D^2 - |v|^2, off by twice (6a) with g for r; all that it enters is the length of a step.
  void curve(Stream stream, Scorer<S>& scorer);

  double* data() const { return data_; }  // (stride, d)

 private:
  double* data_ = nullptr;
  double* zeros_ = nullptr;  // (d)
};

// Computes  out_i = sum_g v_ig grad h_g(x_i), theory.md (15a), as cpp/cpu/gradient.hpp says it.
// Shapes    rows (n, d), groups (G + 1) on the host, vectors (n, G), out (n, d).
template <class S>
void gradient(const DeviceModel& model, const Rows<S>& rows, Groups groups, Rule rule, bool screening,
              const double* vectors, Precision<S>* out, const Call& call);

}  // namespace mfa::cuda
