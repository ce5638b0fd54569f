//! Solids as signed distances, from which every structure is put together.

use super::dice::Dice;
use super::point::{Bounds, Point, add, cross, dot, length, mix, scale, sub, unit};
use super::texture::Waves;
use std::sync::Arc;

/// A solid in space.
pub trait Shape: Send + Sync {
    /// A box that holds the solid.
    fn bounds(&self) -> Bounds;
    /// About the distance in mm to the solid's surface, negative inside; exact at the surface.
    fn distance(&self, p: Point) -> f32;
    /// How much [`Self::distance`] changes per mm at most, about the surface.
    fn slope(&self) -> f32;
}

/// A solid that several structures share.
pub type Solid = Arc<dyn Shape>;

/// An ellipsoid.
pub struct Ellipsoid {
    centre: Point,
    semi: Point,
    /// Its own axes.
    axes: [Point; 3],
}

impl Ellipsoid {
    /// An ellipsoid along the patient's axes.
    pub fn new(centre: Point, semi: Point) -> Self {
        Self { centre, semi, axes: [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]] }
    }

    /// The ellipsoid turned about `axis` through its centre.
    pub fn turned(mut self, axis: Point, degrees: f32) -> Self {
        let axis = unit(axis);
        let (sin, cos) = degrees.to_radians().sin_cos();
        self.axes = self.axes.map(|v| {
            let along = scale(axis, dot(axis, v) * (1.0 - cos));
            add(add(scale(v, cos), scale(cross(axis, v), sin)), along)
        });
        self
    }
}

impl Shape for Ellipsoid {
    fn bounds(&self) -> Bounds {
        let half = std::array::from_fn(|a| length(std::array::from_fn(|k| self.axes[k][a] * self.semi[k])));
        Bounds::about(self.centre, half)
    }

    fn slope(&self) -> f32 {
        1.5
    }

    fn distance(&self, p: Point) -> f32 {
        let p = sub(p, self.centre);
        let local: Point = std::array::from_fn(|k| dot(self.axes[k], p) / self.semi[k]);
        let steep: Point = std::array::from_fn(|k| local[k] / self.semi[k]);
        let least = self.semi[0].min(self.semi[1]).min(self.semi[2]);
        let (reach, steep) = (length(local), length(steep));
        if steep < 1e-6 { -least } else { (reach * (reach - 1.0) / steep).max(-least) }
    }
}

/// A node of a tube's axis: a point and the radius there, mm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Node {
    /// Where.
    pub at: Point,
    /// How thick.
    pub radius: f32,
}

/// A node from its numbers.
pub fn node(x: f32, y: f32, z: f32, radius: f32) -> Node {
    Node { at: [x, y, z], radius }
}

/// A smooth curve (Catmull-Rom) through the nodes, `steps` pieces between one and the next.
pub fn spline(nodes: &[Node], steps: usize) -> Vec<Node> {
    let at = |i: isize| nodes[i.clamp(0, nodes.len() as isize - 1) as usize];
    let mut curve = Vec::with_capacity(nodes.len() * steps);
    for span in 0..nodes.len() as isize - 1 {
        let four = [at(span - 1), at(span), at(span + 1), at(span + 2)];
        curve.extend((0..steps).map(|step| {
            let t = step as f32 / steps as f32;
            let cubic = |f: &dyn Fn(&Node) -> f32| {
                let [a, b, c, d] = [f(&four[0]), f(&four[1]), f(&four[2]), f(&four[3])];
                b + 0.5 * t * (c - a + t * (2.0 * a - 5.0 * b + 4.0 * c - d + t * (3.0 * (b - c) + d - a)))
            };
            let point = std::array::from_fn(|k| cubic(&|n: &Node| n.at[k]));
            Node { at: point, radius: mix(four[1].radius, four[2].radius, t) }
        }));
    }
    curve.extend(nodes.last());
    curve
}

struct Piece {
    from: Point,
    along: Point,
    per_square: f32,
    radius: f32,
    growth: f32,
}

impl Piece {
    fn new(from: Node, to: Node) -> Self {
        let along = sub(to.at, from.at);
        let per_square = 1.0 / dot(along, along).max(1e-6);
        Self { from: from.at, along, per_square, radius: from.radius, growth: to.radius - from.radius }
    }

    fn distance(&self, p: Point) -> f32 {
        let from = sub(p, self.from);
        let t = (dot(from, self.along) * self.per_square).clamp(0.0, 1.0);
        length(sub(from, scale(self.along, t))) - self.radius - self.growth * t
    }
}

/// Pieces that follow each other, and a ball that holds them.
struct Stretch {
    pieces: Vec<Piece>,
    centre: Point,
    radius: f32,
}

/// Pieces of a stretch.
const STRETCH: usize = 5;

impl Stretch {
    fn new(nodes: &[Node]) -> Self {
        let Bounds { low, high } = Bounds::of(nodes.iter().map(|n| n.at));
        let centre = scale(add(low, high), 0.5);
        let radius = nodes.iter().map(|n| length(sub(n.at, centre)) + n.radius).fold(0.0, f32::max);
        Self { pieces: nodes.windows(2).map(|pair| Piece::new(pair[0], pair[1])).collect(), centre, radius }
    }

    /// The distance, or `nearest` if it is no less.
    fn nearer(&self, p: Point, nearest: f32) -> f32 {
        if length(sub(p, self.centre)) - self.radius >= nearest {
            return nearest;
        }
        self.pieces.iter().fold(nearest, |nearest, piece| nearest.min(piece.distance(p)))
    }
}

/// A tube of varying radius, with round ends.
pub struct Tube {
    stretches: Vec<Stretch>,
    /// How many times thinner it is from front to back than from head to foot.
    flatness: f32,
    bounds: Bounds,
}

impl Tube {
    /// A round tube along straight pieces.
    pub fn new(nodes: &[Node]) -> Self {
        Self::flat(nodes, 1.0)
    }

    /// A tube thinner from front to back by `flatness`, at least 1.
    pub fn flat(nodes: &[Node], flatness: f32) -> Self {
        let stretched = |n: &Node| Node { at: [n.at[0], n.at[1] * flatness, n.at[2]], ..*n };
        let course: Vec<Node> = nodes.iter().map(stretched).collect();
        let stretches = (0..course.len().saturating_sub(1))
            .step_by(STRETCH)
            .map(|from| Stretch::new(&course[from..(from + STRETCH + 1).min(course.len())]));
        let thickest = nodes.iter().map(|n| n.radius).fold(0.0, f32::max);
        let bounds = Bounds::of(nodes.iter().map(|n| n.at)).grown(thickest);
        Self { stretches: stretches.collect(), flatness, bounds }
    }

    /// A round tube along a smooth curve through the nodes.
    pub fn smooth(nodes: &[Node]) -> Self {
        Self::new(&spline(nodes, 5))
    }
}

impl Shape for Tube {
    fn bounds(&self) -> Bounds {
        self.bounds
    }

    fn slope(&self) -> f32 {
        let pieces = self.stretches.iter().flat_map(|s| &s.pieces);
        let widening = pieces.map(|p| p.growth.abs() * p.per_square.sqrt()).fold(0.0, f32::max);
        self.flatness.sqrt() * (1.0 + widening)
    }

    fn distance(&self, p: Point) -> f32 {
        let p = [p[0], p[1] * self.flatness, p[2]];
        let nearest = self.stretches.iter().fold(f32::INFINITY, |nearest, s| s.nearer(p, nearest));
        nearest / self.flatness.sqrt()
    }
}

/// An upright column between two heights; its cross-section is a superellipse of exponent 2.5.
pub struct Column {
    /// Centre (x, y).
    pub centre: [f32; 2],
    /// Semi-axes (x, y).
    pub semi: [f32; 2],
    /// Lowest and highest z.
    pub span: [f32; 2],
    /// How many times thinner half-way up.
    pub waist: f32,
}

impl Shape for Column {
    fn bounds(&self) -> Bounds {
        let [x, y] = self.centre;
        let [a, b] = self.semi;
        Bounds { low: [x - a, y - b, self.span[0]], high: [x + a, y + b, self.span[1]] }
    }

    fn slope(&self) -> f32 {
        1.5
    }

    fn distance(&self, p: Point) -> f32 {
        let [low, high] = self.span;
        let height = ((2.0 * p[2] - low - high) / (high - low)).clamp(-1.0, 1.0);
        let waist = mix(1.0 / self.waist, 1.0, height * height);
        let [a, b] = self.semi.map(|s| s * waist);
        let (u, v) = ((p[0] - self.centre[0]).abs() / a, (p[1] - self.centre[1]).abs() / b);
        // To the first order, the value over its slope.
        let (slope_u, slope_v) = (u * u.sqrt(), v * v.sqrt());
        let value = u * slope_u + v * slope_v - 1.0;
        let slope = 2.5 * ((slope_u / a).powi(2) + (slope_v / b).powi(2)).sqrt();
        let side = (value / slope.max(1e-6)).max(-a.min(b));
        side.max(low - p[2]).max(p[2] - high)
    }
}

struct Rough {
    inner: Solid,
    waves: Waves,
    height: f32,
}

impl Shape for Rough {
    fn bounds(&self) -> Bounds {
        self.inner.bounds().grown(self.height * Waves::LARGEST)
    }

    fn slope(&self) -> f32 {
        self.inner.slope() + self.height * self.waves.steepness()
    }

    fn distance(&self, p: Point) -> f32 {
        self.inner.distance(p) + self.height * self.waves.at(p)
    }
}

/// A solid with bumps of about `height` mm, `wave` mm apart.
pub fn rough(inner: Solid, dice: &mut Dice, height: f32, wave: f32) -> Solid {
    Arc::new(Rough { inner, waves: Waves::new(dice, wave), height })
}

struct Without {
    inner: Solid,
    hole: Solid,
}

impl Shape for Without {
    fn bounds(&self) -> Bounds {
        self.inner.bounds()
    }

    fn slope(&self) -> f32 {
        self.inner.slope().max(self.hole.slope())
    }

    fn distance(&self, p: Point) -> f32 {
        self.inner.distance(p).max(-self.hole.distance(p))
    }
}

/// What is left of a solid without another.
pub fn without(inner: Solid, hole: Solid) -> Solid {
    Arc::new(Without { inner, hole })
}

struct Within {
    inner: Solid,
    limit: Solid,
    gap: f32,
}

impl Shape for Within {
    fn bounds(&self) -> Bounds {
        self.inner.bounds().intersection(self.limit.bounds())
    }

    fn slope(&self) -> f32 {
        self.inner.slope().max(self.limit.slope())
    }

    fn distance(&self, p: Point) -> f32 {
        self.inner.distance(p).max(self.limit.distance(p) + self.gap)
    }
}

/// What of a solid lies at least `gap` mm below another's surface.
pub fn within(inner: Solid, limit: &Solid, gap: f32) -> Solid {
    Arc::new(Within { inner, limit: Arc::clone(limit), gap })
}

struct Joined {
    parts: Vec<Solid>,
    fillet: f32,
}

impl Shape for Joined {
    fn bounds(&self) -> Bounds {
        let none = Bounds::of([]);
        self.parts
            .iter()
            .fold(none, |all, part| all.union(part.bounds()))
            .grown(self.fillet / 4.0 * self.parts.len() as f32)
    }

    fn slope(&self) -> f32 {
        self.parts.iter().map(|part| part.slope()).fold(0.0, f32::max)
    }

    fn distance(&self, p: Point) -> f32 {
        self.parts.iter().map(|part| part.distance(p)).fold(f32::INFINITY, |a, b| {
            let near = (self.fillet - (a - b).abs()).max(0.0) / self.fillet;
            a.min(b) - near * near * self.fillet / 4.0
        })
    }
}

/// Solids as one, the edges between them filled over about `fillet` mm.
pub fn joined(parts: Vec<Solid>, fillet: f32) -> Solid {
    Arc::new(Joined { parts, fillet })
}
