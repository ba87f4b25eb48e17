#include "cpu/sample.hpp"

#include <algorithm>
#include <numeric>
#include <vector>

#include "core/philox.hpp"

namespace mfa::cpu {
namespace {

constexpr std::size_t samples_per_task = 64;

}  // namespace

std::size_t draw_component(std::uint64_t seed, std::uint64_t index, const std::vector<double>& cumulative) {
  const core::Words words = core::draw(seed, index, core::Stream::component, 0);
  const double u = cumulative.back() * core::uniform52(words.w0, words.w1);
  return static_cast<std::size_t>(std::upper_bound(cumulative.begin(), cumulative.end() - 1, u) - cumulative.begin());
}

template <class T>
void sample(const Model& model, const double* weights, std::uint64_t seed, std::uint64_t start, std::size_t n, bool noise,
            T* out, std::int64_t* labels, std::size_t n_threads) {
  const std::size_t d = model.n_features();
  const std::size_t K = model.n_components();
  const Loops& loops = model.loops();
  std::vector<double> cumulative(K);
  std::partial_sum(weights, weights + K, cumulative.begin());

  parallel_for((n + samples_per_task - 1) / samples_per_task, n_threads, [&] {
    return [&, z = std::vector<double>(model.n_factors())](std::size_t task) mutable {
      const std::size_t end = std::min(n, (task + 1) * samples_per_task);
      for (std::size_t i = task * samples_per_task; i < end; ++i) {
        const std::uint64_t index = start + i;
        const std::size_t k = draw_component(seed, index, cumulative);
        labels[i] = static_cast<std::int64_t>(k);
        loops.sample_factors(seed, index, model.n_factors(), z.data());
        typed<T>(loops).sample(seed, index, model.component(k), z.data(), noise ? model.noise_variance(k) : nullptr,
                               out + i * d);
      }
    };
  });
}

template <class T>
void reconstruct(const Model& model, std::size_t n, const std::int64_t* labels, const double* factors, T* out,
                 std::size_t n_threads) {
  const std::size_t d = model.n_features();
  parallel_for((n + samples_per_task - 1) / samples_per_task, n_threads, [&] {
    return [&](std::size_t task) {
      const std::size_t end = std::min(n, (task + 1) * samples_per_task);
      for (std::size_t i = task * samples_per_task; i < end; ++i)
        typed<T>(model.loops()).sample(0, 0, model.component(static_cast<std::size_t>(labels[i])),
                                       factors + i * model.n_factors(), nullptr, out + i * d);
    };
  });
}

template void reconstruct(const Model&, std::size_t, const std::int64_t*, const double*, float*, std::size_t);
template void reconstruct(const Model&, std::size_t, const std::int64_t*, const double*, double*, std::size_t);
template void sample(const Model&, const double*, std::uint64_t, std::uint64_t, std::size_t, bool, float*,
                     std::int64_t*, std::size_t);
template void sample(const Model&, const double*, std::uint64_t, std::uint64_t, std::size_t, bool, double*,
                     std::int64_t*, std::size_t);

}  // namespace mfa::cpu
