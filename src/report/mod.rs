//! Figures for people.

pub mod overlay;
