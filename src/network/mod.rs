//! Architectures as planned lists of steps over reusable buffers.

pub mod plain_conv_unet;

pub use plain_conv_unet::PlainConvUNetConfig;
