#include "sample.hpp"

#include <cmath>
#include <vector>

#include "core/normal.hpp"
#include "core/philox.hpp"
#include "tiles.hpp"

namespace mfa::cuda {
namespace {

// One block of Philox makes as many normal numbers as 16 bytes hold; a thread makes those features of some samples.
template <class T>
constexpr std::size_t features_at_once = 16 / sizeof(T);
constexpr std::size_t rows_at_once = 8;
constexpr unsigned sample_threads = 128;

__device__ void normals(std::uint64_t seed, std::uint64_t sample, core::Stream stream, std::uint32_t block,
                        float (&out)[4]) {
  const core::Words words = core::draw(seed, sample, stream, block);
  const core::NormalPair<float> p = core::normal_pair(words.w0, words.w1);
  const core::NormalPair<float> q = core::normal_pair(words.w2, words.w3);
  out[0] = p.a;
  out[1] = p.b;
  out[2] = q.a;
  out[3] = q.b;
}
__device__ void normals(std::uint64_t seed, std::uint64_t sample, core::Stream stream, std::uint32_t block,
                        double (&out)[2]) {
  const core::Words words = core::draw(seed, sample, stream, block);
  const core::NormalPair<double> p = core::normal_pair(words.w0, words.w1, words.w2, words.w3);
  out[0] = p.a;
  out[1] = p.b;
}

// One thread per sample: its component and its factors.
__global__ void draw_kernel(const double* cumulative, std::size_t n_components, std::size_t n_factors,
                            std::uint64_t seed, std::uint64_t start, std::size_t n, std::int64_t* labels, double* z) {
  const std::size_t i = task_index();
  if (i >= n) return;
  const std::uint64_t index = start + i;
  const core::Words words = core::draw(seed, index, core::Stream::component, 0);
  const double u = cumulative[n_components - 1] * core::uniform52(words.w0, words.w1);
  // The first component whose share reaches beyond u; one of weight 0 reaches no further than the one before it.
  std::size_t k = 0;
  while (k + 1 < n_components && cumulative[k] <= u) ++k;
  labels[i] = static_cast<std::int64_t>(k);
  for (std::size_t l = 0; l < n_factors; l += 2) {
    double pair[2];
    normals(seed, index, core::Stream::factors, static_cast<std::uint32_t>(l / 2), pair);
    z[i * n_factors + l] = pair[0];
    if (l + 1 < n_factors) z[i * n_factors + l + 1] = pair[1];
  }
}

// One thread per sample.
__global__ void mark_labels_kernel(const std::int64_t* labels, std::size_t n, std::size_t stride,
                                   std::size_t n_components, std::uint8_t* marks) {
  const std::size_t i = task_index();
  if (i >= n) return;
  for (std::size_t k = 0; k < n_components; ++k) marks[k * stride + i] = labels[i] == static_cast<std::int64_t>(k);
}

template <class T>
struct alignas(16) Pack {
  T values[features_at_once<T>];
};

// Blocks take task after task: some features of sixteen samples of one component.
template <class T>
__global__ void __launch_bounds__(sample_threads)
    compose_kernel(ModelView model, EntryView entries, std::uint64_t seed, std::uint64_t start, bool noise,
                   const double* z, T* out) {
  constexpr std::size_t width = features_at_once<T>;
  const std::size_t K = model.n_components;
  const std::size_t L = model.n_factors;
  const std::size_t d = model.n_features;
  const std::size_t slabs = (d + width * sample_threads - 1) / (width * sample_threads);
  const bool whole = d % width == 0 && reinterpret_cast<std::uintptr_t>(out) % sizeof(Pack<T>) == 0;
  const std::size_t tasks = static_cast<std::size_t>(entries.tile_starts[K]) * slabs;
  for (std::size_t task = blockIdx.x; task < tasks; task += gridDim.x) {
    const std::size_t j = (task % slabs * sample_threads + threadIdx.x) * width;
    if (j >= d) continue;
    const Tile members = tile_at(entries, K, static_cast<int>(task / slabs));
    const std::size_t k = members.component;
    const double* mean = model.component_mean(k);
    const double* loadings = model.component_loadings(k);
    for (std::size_t begin = 0; begin < members.count; begin += rows_at_once) {
      const std::size_t count = members.count - begin < rows_at_once ? members.count - begin : rows_at_once;
      std::size_t row[rows_at_once];
      double sums[rows_at_once][width];
#pragma unroll
      for (std::size_t r = 0; r < rows_at_once; ++r) {
        row[r] = static_cast<std::size_t>(members.rows[begin + (r < count ? r : 0)]);
#pragma unroll
        for (std::size_t f = 0; f < width; ++f) sums[r][f] = j + f < d ? mean[j + f] : 0.0;
      }
      for (std::size_t l = 0; l < L; ++l) {
        double loading[width];
#pragma unroll
        for (std::size_t f = 0; f < width; ++f) loading[f] = j + f < d ? loadings[l * d + j + f] : 0.0;
#pragma unroll
        for (std::size_t r = 0; r < rows_at_once; ++r) {
          const double factor = z[row[r] * L + l];
#pragma unroll
          for (std::size_t f = 0; f < width; ++f) sums[r][f] += factor * loading[f];
        }
      }
#pragma unroll
      for (std::size_t r = 0; r < rows_at_once; ++r) {
        if (r >= count) continue;
        if (noise) {
          T normal[width];
          normals(seed, start + row[r], core::Stream::noise, static_cast<std::uint32_t>(j / width), normal);
#pragma unroll
          for (std::size_t f = 0; f < width; ++f) {
            if (j + f >= d) continue;
            const double variance =
                model.inverse_noise == nullptr ? model.noise_variance[k] : model.noise_variance[k * d + j + f];
            sums[r][f] += std::sqrt(variance) * static_cast<double>(normal[f]);
          }
        }
        Pack<T> pack;
#pragma unroll
        for (std::size_t f = 0; f < width; ++f) pack.values[f] = static_cast<T>(sums[r][f]);
        T* to = out + row[r] * d + j;
        if (whole) {
          *reinterpret_cast<Pack<T>*>(to) = pack;
          continue;
        }
#pragma unroll
        for (std::size_t f = 0; f < width; ++f)
          if (j + f < d) to[f] = pack.values[f];
      }
    }
  }
}

// What samples or reconstructions that are made at once need.
struct Space {
  std::size_t stride = 0;
  double* cumulative = nullptr;
  double* z = nullptr;
  std::uint8_t* marks = nullptr;
  EntryView entries{};

  void lay_out(Arena& arena, std::size_t K, std::size_t L, std::size_t places) {
    stride = places;
    cumulative = arena.take<double>(K);
    z = arena.take<double>(places * L);
    marks = arena.take<std::uint8_t>(K * places);
    entries = lay_out_entries(arena, K, places, places);
  }
};

template <class T>
void compose(const DeviceModel& model, const Space& space, std::size_t n, const std::int64_t* labels, const double* z,
             std::uint64_t seed, std::uint64_t start, bool noise, T* out, Stream stream) {
  const std::size_t K = model.n_components();
  launch_tasks(stream, n, mark_labels_kernel, labels, n, space.stride, K, space.marks);
  list_entries(stream, space.marks, 1, K, n, space.stride, space.entries);
  launch(stream, resident_blocks(), sample_threads, compose_kernel<T>, model.view(), space.entries, seed, start, noise,
         z, out);
}

}  // namespace

template <class T>
void sample(const DeviceModel& model, const double* weights, std::uint64_t seed, std::uint64_t start, std::size_t n,
            bool noise, T* out, std::int64_t* labels, const Call& call) {
  const std::size_t K = model.n_components();
  const std::size_t L = model.n_factors();
  std::vector<double> cumulative(K);
  double total = 0.0;
  for (std::size_t k = 0; k < K; ++k) cumulative[k] = total += weights[k];
  Space space;
  for_each_chunk(
      call, n, K, [&](Arena& arena, std::size_t stride) { space.lay_out(arena, K, L, stride); },
      [&](const Blas&) { send(call.stream, cumulative.data(), K, space.cumulative); },
      [&](std::size_t first, std::size_t count) {
        launch_tasks(call.stream, count, draw_kernel, space.cumulative, K, L, seed, start + first, count,
                     labels + first, space.z);
        compose(model, space, count, labels + first, space.z, seed, start + first, noise,
                out + first * model.n_features(), call.stream);
      });
}

template <class T>
void reconstruct(const DeviceModel& model, std::size_t n, const std::int64_t* labels, const double* factors, T* out,
                 const Call& call) {
  const std::size_t K = model.n_components();
  const std::size_t L = model.n_factors();
  Space space;
  for_each_chunk(
      call, n, K, [&](Arena& arena, std::size_t stride) { space.lay_out(arena, K, 0, stride); }, [&](const Blas&) {},
      [&](std::size_t first, std::size_t count) {
        compose(model, space, count, labels + first, factors + first * L, 0, 0, false,
                out + first * model.n_features(), call.stream);
      });
}

template void sample(const DeviceModel&, const double*, std::uint64_t, std::uint64_t, std::size_t, bool, float*,
                     std::int64_t*, const Call&);
template void sample(const DeviceModel&, const double*, std::uint64_t, std::uint64_t, std::size_t, bool, double*,
                     std::int64_t*, const Call&);
template void reconstruct(const DeviceModel&, std::size_t, const std::int64_t*, const double*, float*, const Call&);
template void reconstruct(const DeviceModel&, std::size_t, const std::int64_t*, const double*, double*, const Call&);

}  // namespace mfa::cuda
