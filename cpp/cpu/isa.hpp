// The loops that are compiled once per instruction set, as a table that is picked at run time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "core/views.hpp"

namespace mfa::cpu {

// Samples that `accumulate` keeps in registers at once.
inline constexpr std::size_t accumulated_rows = 4;

// Two vectors of at most 64 bytes for every factor of every row, and for q.
inline constexpr std::size_t lanes_scratch(std::size_t rows, std::size_t n_factors) {
  return 2 * rows * (n_factors + 1) * 8;
}

// What is left of a matrix product's row to make log-densities of.
struct DifferenceTerms {
  std::size_t n_components, n_factors;
  double x_norm;                      // |x - center|^2, scaled as the panel is
  const double* inverse_noise;        // (K) factors of x_norm, or null for 1
  const double* projected_means;      // (L, K)
  const double* mean_norms;           // (K)
  const double* log_normalizers;      // (K)
  const double* model_errors;         // (K)
  double epsilon;                     // of the matrix product's type
};

// What is left of a row's product with a subspace's shadow to make bounds of (core/screening.hpp).
template <class T>
struct ScreenTerms {
  std::size_t n_components, n_factors;
  T y_norm;                      // |y|^2
  T outside;                     // |x_perp|, rounded down
  T shift;                       // bound on the rounding of y, rounded up
  T epsilon;                     // of the matrix product
  const T* projected_means;      // (L, K), of the shadow
  const T* mean_norms;           // (K), of the shadow
  const T* model_errors;         // (K), of the shadow
  const T* spreads_by_factor;    // (L, K), beta_l of the shadow's factors
  const T* means_left;           // (K)
  const T* spreads;              // (K), the largest beta_l
  const T* inverse_noise_roots;  // (K)
  const T* inverse_weights;      // (K)
  const T* log_normalizers;      // (K), of the model
};

// One component, as the difference form reads it for single rows.
template <class T>
struct DifferenceView {
  std::size_t n_features, n_factors;
  const T* mean;           // (d)
  const T* columns;        // (L, d), D^-1 A C^-T
  const T* inverse_noise;  // (d), or null for 1
};

template <class T>
struct TypedLoops {
  // Columns of a vector. Two make a tile of a panel, or one that is left over; a tile is stored (d, its columns).
  std::size_t width;
  // out (rows, n_vectors * width) = x (rows, d) times the panel.
  void (*multiply)(MatrixView<const T> x, const T* panel, std::size_t n_vectors, MatrixView<T> out);
  // out = (x - center) * scale, rounded to T, or without a scale where that is null; returns |out|^2. `squares`, unless null,
  // gets out * out where there is a scale.
  double (*center)(const T* x, const T* center, const T* scale, std::size_t d, T* out, T* squares);
  // Log-densities (K) of one row and bounds on their rounding errors (K). `product` is the row of the matrix product,
  // `x_norms` (K) replaces x_norm where the noise is diagonal.
  void (*log_densities)(const DifferenceTerms& terms, const T* product, const T* x_norms, double* values,
                        double* errors);
  // Upper bounds (K) on the log-densities of one row, and guesses (K) at them, from its product with the shadow.
  void (*screen)(const ScreenTerms<T>& terms, const T* product, T* guess, T* upper);
  // The index of the largest of n > 0 numbers, the lowest on a tie.
  std::size_t (*largest)(const T* values, std::size_t n);
  // Writes the indices of those of n numbers that are not below `least`, and returns how many they are.
  std::size_t (*select)(const T* values, std::size_t n, T least, std::size_t* out);
  // For any number of rows: out (rows, L + 1) = products of x - mu with the columns, and last |x - mu|^2_D; the same in
  // double. `scratch` has lanes_scratch(rows, L) numbers.
  void (*difference_form)(const T* const* x, std::size_t rows, const DifferenceView<T>& component, double* scratch,
                          T* out);
  void (*difference_form_in_double)(const T* const* x, std::size_t rows, const DifferenceView<double>& component,
                                    double* scratch, double* out);
  // For any number of rows at the factors z (rows, L): q (rows) = |x - mu - A z|^2_D + |z|^2 and
  // gradient (rows, L) = A^T D^-1 (x - mu - A z) - z; in double. `scratch` has lanes_scratch(rows, L) numbers.
  void (*residual_form)(const T* const* x, std::size_t rows, const ComponentView& component, const double* z,
                        double* scratch, double* q, double* gradient);
  // For any number of rows: out (d) += share * D^-1 (x - mu - A z), which at the posterior mean of the factors is
  // S^-1 (x - mu). Where a row `begins`, nothing is in `out` yet.
  void (*add_precision_products)(const T* const* x, std::size_t rows, const ComponentView& component, const double* z,
                                 const double* shares, const bool* begins, double* const* out);
  // |a - b|^2, or |a|^2 where b is null, in double.
  double (*squared_distance)(const T* a, const T* b, std::size_t d);
  // x <- x - a gradient, not below `low` nor above `high`; in double.
  void (*step)(T* x, const double* gradient, double a, double low, double high, std::size_t d);
  // Adds up to accumulated_rows samples to the statistics of features [0, count):
  // cross (L + 1, count; rows `stride` apart) += sum_i factors[i, l] (x_i - mean), squares += sum_i weight_i (x - mean)^2.
  void (*accumulate)(const T* const* x, std::size_t rows, const double* mean, const double* factors,
                     const double* weights, std::size_t n_factors, std::size_t count, std::size_t stride,
                     double* cross, double* squares);
  // out (d) = mean + loadings^T z + noise_std * normal; without the last term where noise_variance is null.
  void (*sample)(std::uint64_t seed, std::uint64_t sample, const ComponentView& component, const double* z,
                 const double* noise_variance, T* out);
};

struct Loops {
  const char* name;
  TypedLoops<float> f32;
  TypedLoops<double> f64;

  // z (L) standard normal numbers of a sample's factor stream.
  void (*sample_factors)(std::uint64_t seed, std::uint64_t sample, std::size_t n_factors, double* z);
};

template <class T>
const TypedLoops<T>& typed(const Loops& loops);
template <>
inline const TypedLoops<float>& typed<float>(const Loops& loops) { return loops.f32; }
template <>
inline const TypedLoops<double>& typed<double>(const Loops& loops) { return loops.f64; }

// The tables that this machine can run, least first.
std::vector<const Loops*> available_loops();
// The table that new models take: the best, unless force_loops named another.
const Loops& current_loops();
// Throws std::invalid_argument if this machine does not have that level.
void force_loops(std::string_view name);

}  // namespace mfa::cpu
