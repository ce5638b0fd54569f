//! Pancreatic-cancer detection cascades of 3-D U-Nets.
//!
//! Data flows one way through the modules, each of which knows only those below it:
//!
//! | module | what lives there |
//! |---|---|
//! | [`challenge`] | the platform's contract: where inputs and outputs lie, the outputs' rules, the HTTP interface |
//! | [`pipeline`] | one file per published system, and the recipe that configures it |
//! | [`detection`] | lesion candidates and the detection map |
//! | [`evaluation`] | the challenges' metrics |
//! | [`report`] | figures for people |
//! | [`nnunet`] | a trained nnU-Net v2 model folder as values, and its inference |
//! | [`network`] | architectures as planned lists of steps |
//! | [`ops`] | 3-D convolution and its companions as candle custom operators |
//! | [`phantom`] | synthetic abdominal CTs with labels |
//! | [`imaging`] | volumes with geometry, file formats, resampling, morphology |
//!
//! Arrays are `(z, y, x)` or `(channel, z, y, x)`; physical points are LPS millimetres `(x, y, z)`.

pub mod challenge;
pub mod detection;
pub mod evaluation;
pub mod imaging;
pub mod network;
pub mod nnunet;
pub mod ops;
pub mod phantom;
pub mod pipeline;
pub mod report;
