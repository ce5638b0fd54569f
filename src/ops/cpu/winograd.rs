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
    let tiles = line.len() / channels / OUTPUTS;
    let (p0, rest) = points.split_at_mut(distance);
    let (p1, rest) = rest.split_at_mut(distance);
    let (p2, rest) = rest.split_at_mut(distance);
    let (p3, rest) = rest.split_at_mut(distance);
    let (p4, p5) = rest.split_at_mut(distance);
    for tile in 0..tiles {
        let input = &line[tile * OUTPUTS * channels..][..POINTS * channels];
        let (d0, input) = input.split_at(channels);
        let (d1, input) = input.split_at(channels);
        let (d2, input) = input.split_at(channels);
        let (d3, input) = input.split_at(channels);
        let (d4, d5) = input.split_at(channels);
        let at = tile * channels..(tile + 1) * channels;
        let (p0, p1, p2) = (&mut p0[at.clone()], &mut p1[at.clone()], &mut p2[at.clone()]);
        let (p3, p4, p5) = (&mut p3[at.clone()], &mut p4[at.clone()], &mut p5[at]);
        for c in 0..channels {
            let even = d4[c] - 4.0 * d2[c];
            let odd = d3[c] - 4.0 * d1[c];
            let near = d4[c] - d2[c];
            let far = 2.0 * (d3[c] - d1[c]);
            p0[c] = 4.0 * (d0[c] - d2[c]) + near;
            p1[c] = even + odd;
            p2[c] = even - odd;
            p3[c] = near + far;
            p4[c] = near - far;
            p5[c] = 4.0 * (d1[c] - d3[c]) + (d5[c] - d3[c]);
        }
    }
}

/// One tile's four outputs for a run of channels from the sums at the six points, plus the bias.
#[inline(always)]
pub(super) fn transform_sums(sums: [&[f32]; POINTS], bias: &[f32], outputs: &mut [[f32; 32]; OUTPUTS]) {
    let n = bias.len();
    let [s0, s1, s2, s3, s4, s5] = sums;
    let (s0, s1, s2) = (&s0[..n], &s1[..n], &s2[..n]);
    let (s3, s4, s5) = (&s3[..n], &s4[..n], &s5[..n]);
    let [y0, y1, y2, y3] = outputs;
    let (y0, y1, y2, y3) = (&mut y0[..n], &mut y1[..n], &mut y2[..n], &mut y3[..n]);
    for c in 0..n {
        let (near, near_difference) = (s1[c] + s2[c], s1[c] - s2[c]);
        let (far, far_difference) = (s3[c] + s4[c], s3[c] - s4[c]);
        y0[c] = s0[c] + near + far + bias[c];
        y1[c] = near_difference + 2.0 * far_difference + bias[c];
        y2[c] = near + 4.0 * far + bias[c];
        y3[c] = near_difference + 8.0 * far_difference + s5[c] + bias[c];
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
            let sums: [[f32; 1]; POINTS] =
                std::array::from_fn(|p| [points[2 * p + tile] * kernel_at(p, taps)]);
            let mut outputs = [[0.0; 32]; OUTPUTS];
            transform_sums(std::array::from_fn(|p| sums[p].as_slice()), &[0.25], &mut outputs);
            for (i, output) in outputs.iter().enumerate() {
                let direct: f32 = (0..3).map(|k| line[4 * tile + i + k] * taps[k]).sum();
                assert!((output[0] - direct - 0.25).abs() < 1e-5, "tile {tile}, output {i}");
            }
        }
    }
}
