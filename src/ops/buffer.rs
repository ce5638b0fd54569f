//! Memory for activations.

use super::cpu;
use candle_core::{DType, Device, Result, Storage, Tensor};

/// Bytes of a cache line.
const LINE: usize = 64;

/// A flat float32 tensor of zeros that begins on a cache line, in huge pages where the system gives them.
///
/// # Errors
/// If the device refuses the memory.
pub fn zeros(len: usize) -> Result<Tensor> {
    let all = Tensor::zeros(len + LINE / size_of::<f32>(), DType::F32, &Device::Cpu)?;
    let start = match &*all.storage_and_layout().0 {
        Storage::Cpu(storage) => {
            let floats = storage.as_slice::<f32>()?;
            cpu::advise_huge_pages(floats);
            floats.as_ptr().align_offset(LINE)
        }
        _ => 0,
    };
    all.narrow(0, start, len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_begin_on_a_cache_line_and_are_zeros() {
        for len in [1, 7, 1000, 3_000_000] {
            let tensor = zeros(len).unwrap();
            let (storage, layout) = tensor.storage_and_layout();
            let Storage::Cpu(storage) = &*storage else { panic!("not on the CPU") };
            let floats = &storage.as_slice::<f32>().unwrap()[layout.start_offset()..];
            assert_eq!(floats.as_ptr() as usize % LINE, 0);
            assert!(floats.len() >= len && floats[..len].iter().all(|&v| v == 0.0));
        }
    }
}
