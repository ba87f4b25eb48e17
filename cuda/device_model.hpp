// A packed model's copy on the device: what cpp/model.cpp made of the parameters, in double, and screening's part of it in the
// short numbers that tensor cores take.
#pragma once

#include <cstddef>
#include <cstdint>

#include "device.hpp"
#include "excerpt.hpp"
#include "model.hpp"
#include "short_floats.hpp"

namespace mfa::cuda {

// K components, L factors, d features; all memory on the device. Passed to kernels by value.
struct ModelView {
  std::size_t n_components, n_factors, n_features;
  const double* center;               // (d)
  const double* means;                // (K, d)
  const double* loadings;             // (K, L, d)
  const double* inverse_noise = nullptr;  // (K, d), or null for spherical noise: then
  const double* inverse_scalars;      // (K); 1 where inverse_noise is there
  const double* noise_variance;       // (K, d), or (K) where the noise is spherical
  const double* cholesky;             // (K, L, L)
  const double* covariances;          // (K, L, L), of the factors' posterior
  const double* log_normalizers;      // (K)
  const double* model_errors;         // (K)
  const double* columns;              // (K, L, d), D^-1 A C^-T
  const double* weighted_means;       // (K, d), D^-1 (mu - center)
  const double* projected_means;      // (K, L), columns^T (mu - center)
  const double* mean_norms;           // (K), |mu - center|^2_D
  double least_noise_std;
  double center_length;               // |center|

  MFA_HD const double* component_mean(std::size_t k) const { return means + k * n_features; }
  MFA_HD const double* component_loadings(std::size_t k) const { return loadings + k * n_factors * n_features; }
  MFA_HD const double* component_inverse_noise(std::size_t k) const {
    return inverse_noise == nullptr ? nullptr : inverse_noise + k * n_features;
  }
  MFA_HD const double* component_columns(std::size_t k) const { return columns + k * n_factors * n_features; }
  MFA_HD const double* component_cholesky(std::size_t k) const { return cholesky + k * n_factors * n_factors; }
};

// Four directions of a shadow's column, each number in two halves.
struct alignas(16) ColumnPart {
  FourHalves high, low;
};
// What is known of one column of a shadow: what is taken off its product, and beta_l.
struct ColumnTerms {
  float projected_mean, spread;
};
// Of the two columns whose sums a lane has.
struct alignas(16) TwoColumnTerms {
  ColumnTerms of[2];
};
// Of one component, what core/screening.hpp makes a bound of.
struct alignas(16) ComponentTerms {
  float mean_norm, model_error;                                 // of the shadow, in screen.length_of_one
  float inverse_noise, inverse_scale;                           // of products with its mean, and of squares of the others
  float mean_left, spread, inverse_noise_root, inverse_weight;  // core::Leftover
  float spread_root;
  float shift, column_error;  // by what its rounded mean is off, and core::rounded_columns_error
  float log_normalizer;
};
// What the lanes of a warp multiply at once (tensor.hpp): sixteen features of eight directions; and sixteen directions of eight
// columns.
inline constexpr std::size_t basis_features = 16, tile_directions = 8, tile_columns = 8, tensor_depth = 16;
inline constexpr std::size_t most_directions = 128;
// Features that stand in a line in a row of which not all are looked at.
inline constexpr std::size_t feature_piece = Excerpt::piece;

// What screening needs: R directions, a multiple of 16 and at most most_directions; and d features of a row, in pieces.
struct ScreenView {
  std::size_t n_directions = 0;     // 0: the model is not screened so
  std::size_t n_features = 0;
  std::size_t piece_distance = feature_piece;  // from where a piece begins in a row to where the next one does
  std::size_t component_tiles = 0;  // of columns: those of a component are L + 1
  double basis_error = 0.0;         // of the rounded basis, as a factor of a vector's length
  // What a row's numbers are multiplied by, a power of two that makes them fit for halves, and the length that becomes 1.
  float one = 1.0f;
  double length_of_one = 1.0;
  float epsilon = 0.0f;             // of the product with the shadow
  const float* center;              // (d)
  const float* scale = nullptr;     // (d), times `one`, or null for that alone
  const FourHalves* basis;          // (steps of sixteen features, R / 8, lanes)
  const ColumnPart* columns;        // (K component_tiles, R / 16, lanes): D^-1 A C^-T times a power of two, mu, and zeros
  const ColumnTerms* column_terms;  // (K component_tiles, 8)
  const ComponentTerms* terms;      // (K)
  // What a step moves coordinates by, core::moved_coordinate_error; null where the noise is not spherical.
  const double* means = nullptr;    // (K, R), about the centre
  const double* loadings = nullptr; // (K, L, R), of the model's own factors
  const double* mean_lengths;       // (K), in these features
  const double* loading_lengths;    // (K)

  // Where feature j of those that are looked at stands in a row.
  MFA_HD std::size_t place(std::size_t j) const { return j / feature_piece * piece_distance + j % feature_piece; }
};

class DeviceModel {
 public:
  // In memory that `allocate` gives, which has to stay for as long as this lives.
  DeviceModel(const Model& model, Stream stream, const Allocate& allocate);

  const ModelView& view() const { return view_; }
  const ScreenView& screen() const { return screen_; }
  // What is looked at before that, where all components are one group.
  const ScreenView& glance() const { return glance_; }
  std::size_t n_components() const { return view_.n_components; }
  std::size_t n_factors() const { return view_.n_factors; }
  std::size_t n_features() const { return view_.n_features; }

 private:
  class Upload;
  void upload_model(const Model& model, Upload& upload);
  // Of the features of `model`, all of them or a part's.
  static void upload_screen(const Model& model, const Subspace& subspace, Upload& upload, ScreenView& view);
  // What moves coordinates, where the noise is spherical.
  static void upload_moves(const Model& model, const Subspace& subspace, Upload& upload, ScreenView& view);

  ModelView view_{};
  ScreenView screen_{}, glance_{};
};

}  // namespace mfa::cuda
