//! Blocks of 256 values in groups with scales of their own: Q2_K to Q6_K and IQ4_XS
//! (`dequantize_row_*` in ggml's `ggml-quants.c`).

use super::small_blocks::{IQ4_VALUES, half};

#[inline(always)]
pub(super) fn q2_k(block: [u8; 84], values: &mut [f32; 256]) {
    let (scales, rest) = block.split_at(16);
    let (q, d) = rest.split_at(64);
    let (d, d_min) = (half(d[0], d[1]), half(d[2], d[3]));
    for (group, (values, scale)) in values
        .as_chunks_mut::<16>()
        .0
        .iter_mut()
        .zip(scales)
        .enumerate()
    {
        let (scale, min) = (d * f32::from(scale & 15), d_min * f32::from(scale >> 4));
        // 128 values take 32 bytes: 16 values of each byte half, two bits at a time.
        let (start, shift) = (group / 8 * 32 + group % 2 * 16, group % 8 / 2 * 2);
        for (value, q) in values.iter_mut().zip(&q[start..start + 16]) {
            *value = scale * f32::from((q >> shift) & 3) - min;
        }
    }
}

#[inline(always)]
pub(super) fn q3_k(block: [u8; 110], values: &mut [f32; 256]) {
    let (high, rest) = block.split_at(32);
    let (q, rest) = rest.split_at(64);
    let (scales, d) = rest.split_at(12);
    let d = half(d[0], d[1]);
    for (group, values) in values.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let low_bits = (scales[group % 8] >> (group / 8 * 4)) & 15;
        let high_bits = (scales[8 + group % 4] >> (group / 4 * 2)) & 3;
        let scale = d * f32::from((low_bits | (high_bits << 4)) as i8 - 32);
        let (start, shift) = (group / 8 * 32 + group % 2 * 16, group % 8 / 2 * 2);
        let (high_start, high_bit) = (group % 2 * 16, group / 2);
        let q = &q[start..start + 16];
        let high = &high[high_start..high_start + 16];
        for (value, (q, high)) in values.iter_mut().zip(q.iter().zip(high)) {
            // The third bit is stored inverted: where it is 0, 4 is taken off.
            let off = (!(high >> high_bit) & 1) << 2;
            *value = scale * f32::from(((q >> shift) & 3) as i8 - off as i8);
        }
    }
}

/// Scale and minimum, six bits each, of one of the eight groups of Q4_K and Q5_K.
#[inline(always)]
fn scale_and_min(packed: &[u8], group: usize) -> (f32, f32) {
    let (scale, min) = if group < 4 {
        (packed[group] & 63, packed[group + 4] & 63)
    } else {
        let both = packed[group + 4];
        (
            (both & 15) | ((packed[group - 4] >> 2) & 0x30),
            (both >> 4) | ((packed[group] >> 2) & 0x30),
        )
    };
    (f32::from(scale), f32::from(min))
}

#[inline(always)]
pub(super) fn q4_k(block: [u8; 144], values: &mut [f32; 256]) {
    let (head, rest) = block.split_at(4);
    let (d, d_min) = (half(head[0], head[1]), half(head[2], head[3]));
    let (packed, q) = rest.split_at(12);
    for (group, values) in values.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = scale_and_min(packed, group);
        let (scale, min) = (d * scale, d_min * min);
        let (start, shift) = (group / 2 * 32, group % 2 * 4);
        for (value, q) in values.iter_mut().zip(&q[start..start + 32]) {
            *value = scale * f32::from((q >> shift) & 15) - min;
        }
    }
}

#[inline(always)]
pub(super) fn q5_k(block: [u8; 176], values: &mut [f32; 256]) {
    let (head, rest) = block.split_at(4);
    let (d, d_min) = (half(head[0], head[1]), half(head[2], head[3]));
    let (packed, rest) = rest.split_at(12);
    let (high, q) = rest.split_at(32);
    for (group, values) in values.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = scale_and_min(packed, group);
        let (scale, min) = (d * scale, d_min * min);
        let (start, shift) = (group / 2 * 32, group % 2 * 4);
        let q = &q[start..start + 32];
        for (value, (q, high)) in values.iter_mut().zip(q.iter().zip(high)) {
            let q = ((q >> shift) & 15) | (((high >> group) & 1) << 4);
            *value = scale * f32::from(q) - min;
        }
    }
}

#[inline(always)]
pub(super) fn q6_k(block: [u8; 210], values: &mut [f32; 256]) {
    let (low, rest) = block.split_at(128);
    let (high, rest) = rest.split_at(64);
    let (scales, d) = rest.split_at(16);
    let d = half(d[0], d[1]);
    let groups = values.as_chunks_mut::<16>().0.iter_mut();
    for (group, (values, scale)) in groups.zip(scales).enumerate() {
        let scale = d * f32::from(*scale as i8);
        // 128 values take 64 low bytes (two passes of four bits) and 32 high ones (four of two).
        let (half_block, within) = (group / 8, group % 8);
        let low_start = half_block * 64 + within % 4 * 16;
        let low_shift = within / 4 * 4;
        let high_start = half_block * 32 + within % 2 * 16;
        let high_shift = within / 2 * 2;
        let low = &low[low_start..low_start + 16];
        let high = &high[high_start..high_start + 16];
        for (value, (low, high)) in values.iter_mut().zip(low.iter().zip(high)) {
            let q = ((low >> low_shift) & 15) | (((high >> high_shift) & 3) << 4);
            *value = scale * f32::from(q as i8 - 32);
        }
    }
}

#[inline(always)]
pub(super) fn iq4_xs(block: [u8; 136], values: &mut [f32; 256]) {
    let (head, rest) = block.split_at(4);
    let d = half(head[0], head[1]);
    let high_bits = u16::from_le_bytes([head[2], head[3]]);
    let (low_bits, q) = rest.split_at(4);
    for (group, values) in values.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let low = (low_bits[group / 2] >> (group % 2 * 4)) & 15;
        let high = (high_bits >> (2 * group)) as u8 & 3;
        let scale = d * f32::from((low | (high << 4)) as i8 - 32);
        let q = &q[group * 16..group * 16 + 16];
        let (first, last) = values.split_at_mut(16);
        for ((first, last), q) in first.iter_mut().zip(last).zip(q) {
            *first = scale * f32::from(IQ4_VALUES[usize::from(q & 15)]);
            *last = scale * f32::from(IQ4_VALUES[usize::from(q >> 4)]);
        }
    }
}
