//! Loops that the compiler turns into wider vector instructions where the processor has them.

use pulp::NullaryFnOnce;

/// Runs work whose loops are compiled for AVX2 as well, where the processor has it. What is to be
/// compiled so must be inlined into `call`.
#[inline(always)]
pub(crate) fn vectorized<W: NullaryFnOnce>(work: W) -> W::Output {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        return simd.vectorize(work);
    }
    work.call()
}
