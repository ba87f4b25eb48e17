#include "sample.hpp"

#include <cmath>
#include <type_traits>
#include <vector>

#include "core/normal.hpp"
#include "core/philox.hpp"
#include "tile_products.hpp"

namespace mfa::cuda {
namespace {

constexpr unsigned sample_threads = 128;
// Blocks that a processor is to have room for: as many as fit without spilling registers.
template <class T>
constexpr unsigned sample_blocks = sizeof(T) == sizeof(float) ? 5 : 4;
// Times that a warp takes sixteen features: enough to make up for its start, and warps get the same of 784 features.
constexpr std::uint32_t warp_steps = 7;

__device__ core::NormalPair<double> normal_pair(const core::RoundKeys& keys, std::uint64_t sample, core::Stream stream,
                                                std::uint32_t block) {
  const core::Words words = core::draw(keys, sample, stream, block);
  return core::normal_pair(words.w0, words.w1, words.w2, words.w3);
}

// The noise of features 4 pack to 4 pack + 3, before it is scaled.
template <class T>
__device__ Four<T> noise_of(const core::RoundKeys& keys, std::uint64_t sample, std::uint32_t pack) {
  if constexpr (sizeof(T) == sizeof(float)) {
    const core::Words words = core::draw(keys, sample, core::Stream::noise, pack);
    const core::NormalPair<float> p = core::normal_pair(words.w0, words.w1);
    const core::NormalPair<float> q = core::normal_pair(words.w2, words.w3);
    return {p.a, p.b, q.a, q.b};
  } else {
    const core::NormalPair<double> p = normal_pair(keys, sample, core::Stream::noise, 2 * pack);
    const core::NormalPair<double> q = normal_pair(keys, sample, core::Stream::noise, 2 * pack + 1);
    return {p.a, p.b, q.a, q.b};
  }
}

// One thread per sample.
__global__ void draw_components_kernel(const double* cumulative, std::size_t n_components, core::RoundKeys keys,
                                       std::uint64_t start, std::size_t n, std::int64_t* labels) {
  const std::size_t i = task_index();
  if (i >= n) return;
  const core::Words words = core::draw(keys, start + i, core::Stream::component, 0);
  const double u = cumulative[n_components - 1] * core::uniform52(words.w0, words.w1);
  // The first component whose share reaches beyond u; one of weight 0 reaches no further than the one before it.
  std::size_t k = 0;
  while (k + 1 < n_components && cumulative[k] <= u) ++k;
  labels[i] = static_cast<std::int64_t>(k);
}

// One thread per sample.
__global__ void mark_labels_kernel(const std::int64_t* labels, std::size_t n, std::size_t stride,
                                   std::size_t n_components, std::uint8_t* marks) {
  const std::size_t i = task_index();
  if (i >= n) return;
  for (std::size_t k = 0; k < n_components; ++k) marks[k * stride + i] = labels[i] == static_cast<std::int64_t>(k);
}

// One thread per component and feature.
__global__ void noise_std_kernel(ModelView model, double* noise_std) {
  const std::size_t d = model.n_features;
  if (task_index() >= model.n_components * d) return;
  const bool spherical = model.inverse_noise == nullptr;
  noise_std[task_index()] = std::sqrt(model.noise_variance[spherical ? task_index() / d : task_index()]);
}

// Samples in the order of their tiles. A tile's places beyond its last sample hold that one again. Factors are filled up
// with zeros to a multiple of eight.
struct Places {
  unsigned* components;  // (tiles)
  unsigned* rows;        // (tiles, tile_entries)
  double* factors;       // (tiles, filled_up(L), tile_entries)
};

MFA_HD std::size_t filled_up(std::size_t n_factors) { return (n_factors + 7) / 8 * 8; }

// One thread per place. Factors are those given, by rows, or drawn.
__global__ void fill_places_kernel(EntryView entries, std::size_t n_components, std::size_t n_factors,
                                   const double* given, core::RoundKeys keys, std::uint64_t start, Places places) {
  const std::size_t tile = task_index() / tile_entries;
  const unsigned place = task_index() % tile_entries;
  if (tile >= static_cast<std::size_t>(entries.tile_starts[n_components])) return;
  const Tile members = tile_at(entries, n_components, static_cast<int>(tile));
  const auto i = static_cast<unsigned>(members.rows[place < members.count ? place : members.count - 1]);
  if (place == 0) places.components[tile] = static_cast<unsigned>(members.component);
  places.rows[task_index()] = i;
  double* to = places.factors + tile * filled_up(n_factors) * tile_entries + place;
  for (std::size_t l = 0; l < filled_up(n_factors); l += 2) {
    double pair[2] = {};
    if (given != nullptr) {
      for (std::size_t e = 0; e < 2 && l + e < n_factors; ++e) pair[e] = given[i * n_factors + l + e];
    } else if (l < n_factors) {
      const auto drawn = normal_pair(keys, start + i, core::Stream::factors, static_cast<std::uint32_t>(l / 2));
      pair[0] = drawn.a;
      if (l + 1 < n_factors) pair[1] = drawn.b;
    }
    to[l * tile_entries] = pair[0];
    to[(l + 1) * tile_entries] = pair[1];
  }
}

// Computes  part += z A, as add_explained of tile_products.hpp does, from loadings that are read where they lie and factors that
//           are filled up with zeros.
// Shapes    factors: the tile's; loadings (L, d) from the feature on that the lane brings to the first of two matrices, from
//           which that for the second lies `apart`.
// Cost      2 L flops for every number, on tensor cores.
__device__ void add_explained(TilePart& part, const double* factors, const double* loadings, std::uint32_t apart,
                              std::uint32_t L, std::uint32_t d) {
  const tensor::Lane own = tensor::lane();
  factors += own.c * tile_entries + own.g;
#pragma unroll 1
  for (std::uint32_t first = 0; first < L; first += 8, factors += 8 * tile_entries) {
    double right[2][2];
#pragma unroll
    for (unsigned p = 0; p < 2; ++p) {
      // What is beyond the last factor is multiplied by zero.
      const std::uint32_t l = first + 4 * p + own.c < L ? first + 4 * p + own.c : L - 1;
      const double* loading = loadings + std::uint64_t{l} * d;
      right[0][p] = loading[0];
      right[1][p] = loading[apart];
    }
#pragma unroll
    for (unsigned m = 0; m < row_matrices; m += 2) {
      double left[2][2];
#pragma unroll
      for (unsigned i = 0; i < 2; ++i)
#pragma unroll
        for (unsigned p = 0; p < 2; ++p) left[i][p] = factors[4 * p * tile_entries + (m + i) * matrix_rows];
#pragma unroll
      for (unsigned h = 0; h < 2; ++h) tensor::multiply_add(part[m][h], part[m + 1][h], left, right[h]);
    }
  }
}

// A warp makes some features of a tile of samples, sixteen at a time: its lane 4 g + c of row 8 m + g features 4 c to
// 4 c + 3. With Whole four features can be read or written at once, everywhere. noise_std (K, d). d, L and the bytes of a row
// are taken for numbers of 32 bits, as Philox takes its count of blocks: an address is one multiplication then.
template <class T, bool Whole, bool Noise>
__global__ void __launch_bounds__(sample_threads, sample_blocks<T>)
    compose_kernel(ModelView model, const int* tiles, Places places, std::uint32_t d, std::uint32_t L,
                   core::RoundKeys keys, std::uint64_t start, const double* noise_std, T* out) {
  const std::uint32_t packs = (d + 3) / 4;  // of features, in which steps and their begin and end are counted
  const std::uint32_t tasks = (packs + 4 * warp_steps - 1) / (4 * warp_steps);
  const std::size_t warp = task_index() / warp_size;
  const std::size_t tile = warp / tasks;
  if (tile >= static_cast<std::size_t>(*tiles)) return;
  const tensor::Lane own = tensor::lane();
  const std::size_t k = places.components[tile];
  const double* factors = places.factors + tile * filled_up(L) * tile_entries;
  const double* loadings = model.component_loadings(k);
  unsigned rows[row_matrices];
#pragma unroll
  for (unsigned m = 0; m < row_matrices; ++m) rows[m] = places.rows[tile * tile_entries + m * matrix_rows + own.g];

  const auto row_bytes = static_cast<std::uint32_t>(d * sizeof(T));
  const auto first = static_cast<std::uint32_t>(warp - tile * tasks) * (4 * warp_steps);
  const std::uint32_t end = first + 4 * warp_steps < packs ? first + 4 * warp_steps : packs;
#pragma unroll 1
  for (std::uint32_t step = first; step < end; step += 4) {
    // Lanes beyond the last features make those once more.
    const auto pack_of = [&](unsigned c) { return step + c < packs ? step + c : packs - 1; };
    const std::uint32_t pack = pack_of(own.c);
    const std::uint32_t j = 4 * pack;
    const std::uint32_t left = Whole ? 4 : d - j;
    const Four<double> mean = load_four(model.component_mean(k) + j, left, Whole);
    Four<double> std{};
    if constexpr (Noise) std = load_four(noise_std + k * d + j, left, Whole);
    TilePart x;
#pragma unroll
    for (unsigned m = 0; m < row_matrices; ++m) {
      Four<T> normal{};
      if constexpr (Noise) normal = noise_of<T>(keys, start + rows[m], pack);
#pragma unroll
      for (unsigned f = 0; f < 4; ++f)
        x[m][f / 2][f % 2] = mean.values[f] + std.values[f] * static_cast<double>(normal.values[f]);
    }

    // Columns 2 c and 2 c + 1 of the products are to be the lane's own features.
    const std::uint32_t wanted = 4 * pack_of(own.g / 2) + own.g % 2;
    const std::uint32_t brought = Whole || wanted < d ? wanted : d - 1;
    add_explained(x, factors, loadings + brought, Whole || brought + 2 < d ? 2 : 0, L, d);

#pragma unroll
    for (unsigned m = 0; m < row_matrices; ++m) {
      Four<T> made;
#pragma unroll
      for (unsigned f = 0; f < 4; ++f) made.values[f] = static_cast<T>(x[m][f / 2][f % 2]);
      T* to = reinterpret_cast<T*>(reinterpret_cast<char*>(out + j) + std::uint64_t{rows[m]} * row_bytes);
      store_four(made, to, left, Whole);
    }
  }
}

// What samples or reconstructions that are made at once need.
struct Space {
  std::size_t stride = 0;
  std::uint8_t* marks = nullptr;
  EntryView entries{};
  Places places{};

  void lay_out(Arena& arena, std::size_t K, std::size_t L, std::size_t n) {
    stride = n;
    marks = arena.take<std::uint8_t>(K * n);
    entries = lay_out_entries(arena, K, n, n);
    const std::size_t tiles = most_tiles(K, n);
    places = {arena.take<unsigned>(tiles), arena.take<unsigned>(tiles * tile_entries),
              arena.take<double>(tiles * filled_up(L) * tile_entries)};
  }
  // A component's last tile may be as good as empty. How many there are is known to the device only.
  static std::size_t most_tiles(std::size_t K, std::size_t n) { return n / tile_entries + K; }
};

// Samples of given components; with given factors, or else drawn ones.
template <class T>
void compose(const DeviceModel& model, const Space& space, std::size_t n, const std::int64_t* labels,
             const double* factors, const core::RoundKeys& keys, std::uint64_t start, const double* noise_std, T* out,
             Stream stream) {
  const std::size_t K = model.n_components();
  const std::size_t d = model.n_features();
  const std::size_t tiles = Space::most_tiles(K, n);
  launch_tasks(stream, n, mark_labels_kernel, labels, n, space.stride, K, space.marks);
  list_entries(stream, space.marks, 1, K, n, space.stride, space.entries);
  launch_tasks(stream, tiles * tile_entries, fill_places_kernel, space.entries, K, model.n_factors(), factors, keys,
               start, space.places);
  const bool whole = d % 4 == 0 && reinterpret_cast<std::uintptr_t>(out) % alignof(Four<T>) == 0;
  const auto kernel = [&](auto noise) {
    return whole ? compose_kernel<T, true, noise.value> : compose_kernel<T, false, noise.value>;
  };
  const std::size_t warps = tiles * ceil_div(d, warp_steps * piece_features);
  launch(stream, ceil_div(warps, sample_threads / warp_size), sample_threads,
         noise_std == nullptr ? kernel(std::false_type{}) : kernel(std::true_type{}), model.view(),
         space.entries.tile_starts + K, space.places, static_cast<std::uint32_t>(d),
         static_cast<std::uint32_t>(model.n_factors()), keys, start, noise_std, out);
}

}  // namespace

template <class T>
void sample(const DeviceModel& model, const double* weights, std::uint64_t seed, std::uint64_t start, std::size_t n,
            bool noise, T* out, std::int64_t* labels, const Call& call) {
  const std::size_t K = model.n_components();
  std::vector<double> cumulative(K);
  double total = 0.0;
  for (std::size_t k = 0; k < K; ++k) cumulative[k] = total += weights[k];
  const core::RoundKeys keys(seed);
  const std::size_t n_stds = K * model.n_features();
  double* shares = nullptr;
  double* noise_std = nullptr;
  Space space;
  for_each_chunk(
      call, n, K, false,
      [&](Arena& arena, std::size_t stride) {
        shares = arena.take<double>(K);
        if (noise) noise_std = arena.take<double>(n_stds);
        space.lay_out(arena, K, model.n_factors(), stride);
      },
      [&](const Blas*) {
        send(call.stream, cumulative.data(), K, shares);
        if (noise) launch_tasks(call.stream, n_stds, noise_std_kernel, model.view(), noise_std);
      },
      [&](std::size_t first, std::size_t count) {
        launch_tasks(call.stream, count, draw_components_kernel, shares, K, keys, start + first, count,
                     labels + first);
        compose(model, space, count, labels + first, nullptr, keys, start + first, noise_std,
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
      call, n, K, false, [&](Arena& arena, std::size_t stride) { space.lay_out(arena, K, L, stride); }, [](const Blas*) {},
      [&](std::size_t first, std::size_t count) {
        compose(model, space, count, labels + first, factors + first * L, core::RoundKeys(0), 0, nullptr,
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
