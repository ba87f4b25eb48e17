// The inner loops, compiled once per instruction set. They know vectors and caches; the formulas are in core/.
// No standard-library template that could be emitted out of line may be used here: the linker would share it with code
// for older machines.
#include "cpu/isa.hpp"
#include "cpu/loops/difference.hpp"
#include "cpu/loops/lengths.hpp"
#include "cpu/loops/products.hpp"
#include "cpu/loops/residual.hpp"
#include "cpu/loops/sampling.hpp"
#include "cpu/loops/scores.hpp"
#include "cpu/loops/selection.hpp"
#include "cpu/loops/statistics.hpp"

namespace mfa::cpu::inline MFA_ISA {

#define MFA_STRING(name) #name
#define MFA_NAME(name) MFA_STRING(name)

extern const Loops loops;
const Loops loops{
    MFA_NAME(MFA_ISA),
    {width<float>, multiply<float>, center<float>, log_densities<float>, screen<float>, largest<float>,
     select<float>, difference_form<float, float>, difference_form<float, double>, residual_form<float>,
     add_precision_products<float>, squared_distance<float>, step<float>, accumulate<float>, sample_row<float>},
    {width<double>, multiply<double>, center<double>, log_densities<double>, screen<double>, largest<double>,
     select<double>, difference_form<double, double>, difference_form<double, double>, residual_form<double>,
     add_precision_products<double>, squared_distance<double>, step<double>, accumulate<double>, sample_row<double>},
    sample_factors,
};

}  // namespace mfa::cpu::MFA_ISA
