//! Blocks of 32 values with one scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL
//! (`dequantize_row_*` in ggml's `ggml-quants.c`).
//!
//! The low halves of a block's bytes are its first 16 values, the high halves its last 16.

use half::f16;

/// The values that IQ4_NL and IQ4_XS choose from.
pub(super) const IQ4_VALUES: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

/// A half-precision number out of two bytes.
#[inline(always)]
pub(super) fn half(low: u8, high: u8) -> f32 {
    f16::from_le_bytes([low, high]).to_f32()
}

#[inline(always)]
pub(super) fn q8_0(block: [u8; 34], values: &mut [f32; 32]) {
    let [d0, d1, q @ ..] = block;
    let d = half(d0, d1);
    for (value, q) in values.iter_mut().zip(q) {
        *value = d * f32::from(q as i8);
    }
}

#[inline(always)]
pub(super) fn q4_0(block: [u8; 18], values: &mut [f32; 32]) {
    let [d0, d1, q @ ..] = block;
    let d = half(d0, d1);
    let (low, high) = values.split_at_mut(16);
    for ((low, high), q) in low.iter_mut().zip(high).zip(q) {
        *low = d * f32::from((q & 15) as i8 - 8);
        *high = d * f32::from((q >> 4) as i8 - 8);
    }
}

#[inline(always)]
pub(super) fn q4_1(block: [u8; 20], values: &mut [f32; 32]) {
    let [d0, d1, m0, m1, q @ ..] = block;
    let (d, m) = (half(d0, d1), half(m0, m1));
    let (low, high) = values.split_at_mut(16);
    for ((low, high), q) in low.iter_mut().zip(high).zip(q) {
        *low = d * f32::from(q & 15) + m;
        *high = d * f32::from(q >> 4) + m;
    }
}

/// The fifth bit of value `index`, in its place.
#[inline(always)]
fn fifth_bit(high_bits: u32, index: usize) -> u8 {
    ((high_bits >> index) as u8 & 1) << 4
}

#[inline(always)]
pub(super) fn q5_0(block: [u8; 22], values: &mut [f32; 32]) {
    let [d0, d1, h0, h1, h2, h3, q @ ..] = block;
    let d = half(d0, d1);
    let high_bits = u32::from_le_bytes([h0, h1, h2, h3]);
    for (index, q) in q.iter().enumerate() {
        let low = (q & 15) | fifth_bit(high_bits, index);
        let high = (q >> 4) | fifth_bit(high_bits, index + 16);
        values[index] = d * f32::from(low as i8 - 16);
        values[index + 16] = d * f32::from(high as i8 - 16);
    }
}

#[inline(always)]
pub(super) fn q5_1(block: [u8; 24], values: &mut [f32; 32]) {
    let [d0, d1, m0, m1, h0, h1, h2, h3, q @ ..] = block;
    let (d, m) = (half(d0, d1), half(m0, m1));
    let high_bits = u32::from_le_bytes([h0, h1, h2, h3]);
    for (index, q) in q.iter().enumerate() {
        let low = (q & 15) | fifth_bit(high_bits, index);
        let high = (q >> 4) | fifth_bit(high_bits, index + 16);
        values[index] = d * f32::from(low) + m;
        values[index + 16] = d * f32::from(high) + m;
    }
}

#[inline(always)]
pub(super) fn iq4_nl(block: [u8; 18], values: &mut [f32; 32]) {
    let [d0, d1, q @ ..] = block;
    let d = half(d0, d1);
    let (low, high) = values.split_at_mut(16);
    for ((low, high), q) in low.iter_mut().zip(high).zip(q) {
        *low = d * f32::from(IQ4_VALUES[usize::from(q & 15)]);
        *high = d * f32::from(IQ4_VALUES[usize::from(q >> 4)]);
    }
}
