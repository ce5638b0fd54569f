//! Whether there is the memory that is asked for, before it is taken.
//!
//! Linux grants almost any amount and kills the process when it is used; so what is large asks here first.

/// More memory was asked for than there is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} need {asked} bytes of memory, {available} bytes are available")]
pub struct NotEnoughMemory {
    /// What it is for.
    pub what: &'static str,
    /// Bytes asked for; the largest number where they are more than it.
    pub asked: u64,
    /// Bytes that may be taken.
    pub available: u64,
}

/// Asks the system how much memory may still be taken.
///
/// Memory that was granted and not yet written to counts as available: what belongs together is to be asked for together.
#[derive(Debug, Clone, Copy)]
pub struct MemoryGauge {
    available: fn() -> Option<u64>,
}

impl MemoryGauge {
    /// A gauge that knows no limit.
    pub const UNLIMITED: Self = Self { available: || None };

    /// A gauge that reads `available`: bytes, `None` if no limit is known.
    pub fn new(available: fn() -> Option<u64>) -> Self {
        Self { available }
    }

    /// Bytes that may still be taken; `None` if no limit is known.
    pub fn available(self) -> Option<u64> {
        (self.available)()
    }

    /// Refuses more bytes than are available; `what` are the things that need them.
    ///
    /// # Errors
    /// If there is a limit and it is exceeded.
    pub fn check(self, what: &'static str, asked: u128) -> Result<(), NotEnoughMemory> {
        match self.available() {
            Some(available) if asked > u128::from(available) => {
                let asked = u64::try_from(asked).unwrap_or(u64::MAX);
                Err(NotEnoughMemory { what, asked, available })
            }
            _ => Ok(()),
        }
    }
}

/// Bytes of so many elements; the product cannot overflow for any grid that can be written down.
pub fn bytes(dims: &[usize], element: usize) -> u128 {
    dims.iter().fold(element as u128, |all, &n| all.saturating_mul(n as u128))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_there_is_is_refused_with_both_amounts() {
        let gauge = MemoryGauge::new(|| Some(1000));
        assert_eq!(gauge.check("two images", 1000), Ok(()));
        let error = gauge.check("two images", 1001).unwrap_err();
        assert_eq!(error.to_string(), "two images need 1001 bytes of memory, 1000 bytes are available");
        assert_eq!(MemoryGauge::UNLIMITED.check("anything", u128::MAX), Ok(()));
    }

    #[test]
    fn products_do_not_overflow() {
        assert_eq!(bytes(&[2, 3, 5], 4), 120);
        assert_eq!(bytes(&[usize::MAX, usize::MAX, usize::MAX], 4), u128::MAX);
    }
}
