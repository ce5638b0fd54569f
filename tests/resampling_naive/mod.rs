//! One-dimensional resampling in double precision, written for reading: recursive prefilter, then four taps.

use ndarray::{Array3, Axis};

/// Where `m` samples lie among `n` that cover the same stretch.
fn positions(n: usize, m: usize) -> impl Iterator<Item = f64> {
    (0..m).map(move |i| (n as f64 / m as f64) * (i as f64 + 0.5) - 0.5)
}

pub fn nearest(line: &[f64], m: usize) -> Vec<f64> {
    positions(line.len(), m)
        .map(|p| line[((p + 0.5).floor().max(0.0) as usize).min(line.len() - 1)])
        .collect()
}

pub fn linear(line: &[f64], m: usize) -> Vec<f64> {
    let last = line.len() - 1;
    let at = |p: f64| {
        let p = p.clamp(0.0, last as f64);
        let (f, t) = (p.floor() as usize, p - p.floor());
        (1.0 - t) * line[f] + t * line[(f + 1).min(last)]
    };
    positions(line.len(), m).map(at).collect()
}

/// `scipy.ndimage.zoom(line, order=3, mode='nearest', grid_mode=True)`.
pub fn cubic(line: &[f64], m: usize) -> Vec<f64> {
    let pad = 12;
    let n = line.len();
    let mut c: Vec<f64> = (0..n + 2 * pad).map(|i| line[i.saturating_sub(pad).min(n - 1)]).collect();
    let len = c.len() as isize;
    prefilter(&mut c, |i| {
        let folded = i.rem_euclid(2 * len);
        folded.min(2 * len - 1 - folded) as usize
    });
    positions(n, m).map(|p| spline(p + pad as f64, |i| c[i as usize])).collect()
}

/// `itk::BSplineInterpolateImageFunction` at multiples of `line.len() / m`.
pub fn itk_bspline(line: &[f64], m: usize) -> Vec<f64> {
    let n = line.len() as isize;
    if n == 1 {
        return vec![line[0]; m];
    }
    let mirror = |i: isize| {
        let folded = i.rem_euclid(2 * n - 2);
        folded.min(2 * n - 2 - folded) as usize
    };
    let mut c = line.to_vec();
    prefilter(&mut c, mirror);
    let scale = n as f64 / m as f64;
    (0..m).map(|i| spline(i as f64 * scale, |k| c[mirror(k)])).collect()
}

/// Coefficients of the cubic B-spline through `c` continued by `fold`, by the two recursions run over the continuation
/// from far enough away for their start not to matter.
fn prefilter(c: &mut [f64], fold: impl Fn(isize) -> usize) {
    let pole = 3.0_f64.sqrt() - 2.0;
    let (n, far) = (c.len() as isize, 60);
    let mut line: Vec<f64> = (-far..n + far).map(|i| 6.0 * c[fold(i)]).collect();
    for i in 1..line.len() {
        line[i] += pole * line[i - 1];
    }
    for i in (0..line.len() - 1).rev() {
        line[i] = pole * (line[i + 1] - line[i]);
    }
    for (i, v) in c.iter_mut().enumerate() {
        *v = line[i + far as usize];
    }
}

fn spline(p: f64, coefficient: impl Fn(isize) -> f64) -> f64 {
    let basis = |d: f64| match d.abs() {
        d if d < 1.0 => 2.0 / 3.0 - d * d + d * d * d / 2.0,
        d if d < 2.0 => (2.0 - d).powi(3) / 6.0,
        _ => 0.0,
    };
    let f = p.floor() as isize;
    (f - 1..=f + 2).map(|i| basis(p - i as f64) * coefficient(i)).sum()
}

/// Every line of `data` along `axis` resampled to `m` samples.
pub fn along_axis(
    data: &Array3<f64>,
    axis: usize,
    m: usize,
    resample: fn(&[f64], usize) -> Vec<f64>,
) -> Array3<f64> {
    let mut dim = data.raw_dim();
    dim[axis] = m;
    let mut out = Array3::zeros(dim);
    for (line, mut target) in data.lanes(Axis(axis)).into_iter().zip(out.lanes_mut(Axis(axis))) {
        target.assign(&ndarray::Array1::from(resample(&line.to_vec(), m)));
    }
    out
}
