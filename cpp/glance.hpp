// A first look at some features of a row: what a component's distance is over these, it is at least over all. Where that rules
// out all components but one, the row need not be read for anything but that one (docs/theory.md, (23a)).
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <utility>

#include "excerpt.hpp"
#include "model.hpp"
#include "subspace.hpp"

namespace mfa {

class Glance {
 public:
  // Along the first `count` of the directions, which are those of `part`, the model of the excerpt's features.
  Glance(const Model& model, std::shared_ptr<const Model> part, std::shared_ptr<const Directions> directions, std::size_t count)
      : excerpt_{model.n_features()},
        part_(std::move(part)),
        subspace_(*part_, std::move(directions), count, model.log_normalizers()) {}

  // Of a model that is scored as one group and screened in `subspace`; null where it is cheaper to look at all features at
  // once. `near`, if any, is what a similar model has chosen: as long as directions are kept, so is that.
  static std::shared_ptr<const Glance> choose(const Model& model, Processor processor, const Subspace& subspace,
                                              const std::optional<std::shared_ptr<const Glance>>& near);

  const Excerpt& excerpt() const { return excerpt_; }
  // Rows of the excerpt are centred and scaled as this says.
  const Model& part() const { return *part_; }
  // In the excerpt's features; its bounds are those of the model's log-densities.
  const Subspace& subspace() const { return subspace_; }

 private:
  Excerpt excerpt_;
  std::shared_ptr<const Model> part_;
  Subspace subspace_;
};

}  // namespace mfa
