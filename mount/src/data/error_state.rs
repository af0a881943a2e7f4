//! Which open handle has been told of which write error, as the kernel's own `errseq_t` does it.
//!
//! Every error of a file is told once to each handle that was open when it happened. An error that nobody has been told
//! of yet is also told to a handle opened later, so that it is not lost when the writer closed without asking.

use rfs_common::errno::Errno;

/// The write errors of one file.
#[derive(Debug, Default)]
pub(crate) struct ErrorState {
    /// How many there have been.
    count: u64,
    last: Option<Errno>,
    told: bool,
}

impl ErrorState {
    /// Something was lost.
    pub(crate) fn record(&mut self, errno: Errno) {
        self.count += 1;
        self.last = Some(errno);
        self.told = false;
    }

    /// What a handle opened now has seen.
    pub(crate) fn cursor(&self) -> u64 {
        if self.last.is_some() && !self.told { self.count - 1 } else { self.count }
    }

    /// The error that the handle with this cursor has not been told of.
    pub(crate) fn take(&mut self, cursor: &mut u64) -> Result<(), Errno> {
        if *cursor == self.count {
            return Ok(());
        }
        *cursor = self.count;
        self.told = true;
        self.last.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_handle_is_told_once() {
        let mut errors = ErrorState::default();
        let (mut first, mut second) = (errors.cursor(), errors.cursor());
        assert_eq!(errors.take(&mut first), Ok(()));
        errors.record(Errno::EIO);
        let mut late = errors.cursor();
        assert_eq!(errors.take(&mut first), Err(Errno::EIO));
        assert_eq!(errors.take(&mut first), Ok(()));
        assert_eq!(errors.take(&mut second), Err(Errno::EIO));
        assert_eq!(errors.take(&mut late), Err(Errno::EIO));
        let mut after_it_was_told = errors.cursor();
        assert_eq!(errors.take(&mut after_it_was_told), Ok(()));
        errors.record(Errno::ENOSPC);
        assert_eq!(errors.take(&mut first), Err(Errno::ENOSPC));
    }
}
