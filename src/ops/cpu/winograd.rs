//! Three taps along x for the price of one and a half: Winograd's minimal filtering F(4, 3).
//!
//! Four neighbouring outputs of a three-tap filter need twelve products, or six: the input is transformed to its
//! values at six points, the kernel likewise, the products at each point are summed over channels and taps of the
//! other axes, and the sums are transformed back. The points are 0, ±1, ±2 and infinity. Along one axis only, the
//! rounding error stays below twice that of the direct sum.
//!
//! Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016.

/// Outputs of one tile.
pub(super) const OUTPUTS: usize = 4;
/// Points at which input and kernel are evaluated, and inputs that one tile reads.
pub(super) const POINTS: usize = 6;

/// The kernel's value at a point.
pub(super) fn kernel_at(point: usize, taps: [f32; 3]) -> f32 {
    const G: [[f64; 3]; POINTS] = [
        [1.0 / 4.0, 0.0, 0.0],
        [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
        [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
        [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
        [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
        [0.0, 0.0, 1.0],
    ];
    G[point].iter().zip(taps).map(|(g, w)| g * f64::from(w)).sum::<f64>() as f32
}

/// Transforms one row of inputs, (4 · tiles + 2, channels), to `points`, six rows (tiles, channels) that lie
/// `distance` floats apart.
#[inline(always)]
pub(super) fn transform_inputs(line: &[f32], channels: usize, points: &mut [f32], distance: usize) {
    if channels.is_multiple_of(16) {
        transform_input_chunks::<16>(line, channels, points, distance);
    } else if channels.is_multiple_of(8) {
        transform_input_chunks::<8>(line, channels, points, distance);
    } else {
        transform_input_chunks::<1>(line, channels, points, distance);
    }
}

/// [`transform_inputs`], so many channels at a time: compilers give up on loops of unknown length over twelve pointers.
#[inline(always)]
fn transform_input_chunks<const N: usize>(
    line: &[f32],
    channels: usize,
    points: &mut [f32],
    distance: usize,
) {
    let chunks = channels / N;
    let tiles = line.len() / channels / OUTPUTS;
    let line = line.as_chunks::<N>().0;
    let (p0, rest) = points.split_at_mut(distance);
    let (p1, rest) = rest.split_at_mut(distance);
    let (p2, rest) = rest.split_at_mut(distance);
    let (p3, rest) = rest.split_at_mut(distance);
    let (p4, p5) = rest.split_at_mut(distance);
    let written = tiles * chunks;
    let (p0, p1) = (&mut p0.as_chunks_mut::<N>().0[..written], &mut p1.as_chunks_mut::<N>().0[..written]);
    let (p2, p3) = (&mut p2.as_chunks_mut::<N>().0[..written], &mut p3.as_chunks_mut::<N>().0[..written]);
    let (p4, p5) = (&mut p4.as_chunks_mut::<N>().0[..written], &mut p5.as_chunks_mut::<N>().0[..written]);
    for tile in 0..tiles {
        let inputs = &line[tile * OUTPUTS * chunks..][..POINTS * chunks];
        for i in 0..chunks {
            let at = tile * chunks + i;
            let (d0, d1, d2) = (inputs[i], inputs[chunks + i], inputs[2 * chunks + i]);
            let (d3, d4, d5) = (inputs[3 * chunks + i], inputs[4 * chunks + i], inputs[5 * chunks + i]);
            for c in 0..N {
                let even = d4[c] - 4.0 * d2[c];
                let odd = d3[c] - 4.0 * d1[c];
                let near = d4[c] - d2[c];
                let far = 2.0 * (d3[c] - d1[c]);
                p0[at][c] = 4.0 * (d0[c] - d2[c]) + near;
                p1[at][c] = even + odd;
                p2[at][c] = even - odd;
                p3[at][c] = near + far;
                p4[at][c] = near - far;
                p5[at][c] = 4.0 * (d1[c] - d3[c]) + (d5[c] - d3[c]);
            }
        }
    }
}

/// One tile's four outputs, (position, channel), from the sums at the six points, plus the bias of each channel; there
/// are a multiple of eight channels.
#[inline(always)]
pub(super) fn transform_sums(sums: [&[f32]; POINTS], bias: &[f32], outputs: &mut [f32]) {
    if bias.len().is_multiple_of(16) {
        transform_chunks::<16>(sums, bias, outputs);
    } else {
        transform_chunks::<8>(sums, bias, outputs);
    }
}

/// [`transform_sums`], so many channels at a time: compilers give up on loops of unknown length over ten pointers.
#[inline(always)]
fn transform_chunks<const N: usize>(sums: [&[f32]; POINTS], bias: &[f32], outputs: &mut [f32]) {
    let bias = bias.as_chunks::<N>().0;
    let chunks = bias.len();
    let [s0, s1, s2, s3, s4, s5] = sums;
    let (s0, s1) = (&s0.as_chunks::<N>().0[..chunks], &s1.as_chunks::<N>().0[..chunks]);
    let (s2, s3) = (&s2.as_chunks::<N>().0[..chunks], &s3.as_chunks::<N>().0[..chunks]);
    let (s4, s5) = (&s4.as_chunks::<N>().0[..chunks], &s5.as_chunks::<N>().0[..chunks]);
    let (y0, outputs) = outputs.as_chunks_mut::<N>().0.split_at_mut(chunks);
    let (y1, outputs) = outputs.split_at_mut(chunks);
    let (y2, y3) = outputs.split_at_mut(chunks);
    let y3 = &mut y3[..chunks];
    for i in 0..chunks {
        for c in 0..N {
            let (near, near_difference) = (s1[i][c] + s2[i][c], s1[i][c] - s2[i][c]);
            let (far, far_difference) = (s3[i][c] + s4[i][c], s3[i][c] - s4[i][c]);
            y0[i][c] = s0[i][c] + near + far + bias[i][c];
            y1[i][c] = near_difference + 2.0 * far_difference + bias[i][c];
            y2[i][c] = near + 4.0 * far + bias[i][c];
            y3[i][c] = near_difference + 8.0 * far_difference + s5[i][c] + bias[i][c];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_at_points_are_the_filter() {
        let taps = [0.5, -1.25, 2.0];
        let line: Vec<f32> = (0..10).map(|i| (i as f32 * 1.7).sin()).collect();
        let mut points = [0.0; 12];
        transform_inputs(&line, 1, &mut points, 2);
        for tile in 0..2 {
            // Eight channels, each twice the one before.
            let double = |v: f32| -> [f32; 8] { std::array::from_fn(|c| v * f32::from(1u8 << c)) };
            let sums: [_; POINTS] =
                std::array::from_fn(|p| double(points[2 * p + tile] * kernel_at(p, taps)));
            let mut outputs = [0.0; 8 * OUTPUTS];
            transform_sums(std::array::from_fn(|p| sums[p].as_slice()), &double(0.25), &mut outputs);
            for (i, output) in outputs.as_chunks::<8>().0.iter().enumerate() {
                let direct: f32 = (0..3).map(|k| line[4 * tile + i + k] * taps[k]).sum();
                for (output, expected) in output.iter().zip(double(direct + 0.25)) {
                    assert!(
                        (output - expected).abs() < 1e-3,
                        "tile {tile}, output {i}: {output}, {expected}"
                    );
                }
            }
        }
    }
}
