//! Points and directions in mm along LPS (x, y, z).

/// A point or direction, mm, (x, y, z): to the patient's left, back and head.
pub type Point = [f32; 3];

/// `a + b`.
pub fn add(a: Point, b: Point) -> Point {
    [a[0] + b[0], a[1] + b[1], a[2] + b[2]]
}

/// `a - b`.
pub fn sub(a: Point, b: Point) -> Point {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

/// `a` times a number.
pub fn scale(a: Point, factor: f32) -> Point {
    a.map(|v| v * factor)
}

/// Inner product.
pub fn dot(a: Point, b: Point) -> f32 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

/// Outer product.
pub fn cross(a: Point, b: Point) -> Point {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

/// Euclidean length.
pub fn length(a: Point) -> f32 {
    dot(a, a).sqrt()
}

/// The direction of `a`; along z where `a` is zero.
pub fn unit(a: Point) -> Point {
    let length = length(a);
    if length > 0.0 { scale(a, 1.0 / length) } else { [0.0, 0.0, 1.0] }
}

/// From `a` (at 0) to `b` (at 1).
pub fn mix(a: f32, b: f32, at: f32) -> f32 {
    a + (b - a) * at
}

/// An axis-aligned box.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    /// Lowest corner.
    pub low: Point,
    /// Highest corner.
    pub high: Point,
}

impl Bounds {
    /// A box of these half-widths.
    pub fn about(centre: Point, half: Point) -> Self {
        Self { low: sub(centre, half), high: add(centre, half) }
    }

    /// The smallest box that holds all points; an inverted one for none.
    pub fn of(points: impl IntoIterator<Item = Point>) -> Self {
        let none = Self { low: [f32::INFINITY; 3], high: [f32::NEG_INFINITY; 3] };
        points.into_iter().fold(none, |all, p| all.union(Self { low: p, high: p }))
    }

    /// The smallest box that holds both.
    pub fn union(self, other: Self) -> Self {
        Self {
            low: std::array::from_fn(|a| self.low[a].min(other.low[a])),
            high: std::array::from_fn(|a| self.high[a].max(other.high[a])),
        }
    }

    /// What both hold; inverted where they are apart.
    pub fn intersection(self, other: Self) -> Self {
        Self {
            low: std::array::from_fn(|a| self.low[a].max(other.low[a])),
            high: std::array::from_fn(|a| self.high[a].min(other.high[a])),
        }
    }

    /// The box with `margin` mm more on every side.
    pub fn grown(self, margin: f32) -> Self {
        Self { low: self.low.map(|v| v - margin), high: self.high.map(|v| v + margin) }
    }

    /// Whether the boxes have a point in common.
    pub fn touches(&self, other: &Self) -> bool {
        (0..3).all(|a| self.low[a] <= other.high[a] && other.low[a] <= self.high[a])
    }

    /// Whether a point is no further than `reach` mm from the box along each axis.
    pub fn is_within(&self, p: Point, reach: f32) -> bool {
        (0..3).all(|a| p[a] >= self.low[a] - reach && p[a] <= self.high[a] + reach)
    }
}
