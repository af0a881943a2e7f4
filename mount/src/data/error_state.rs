//! Which open handle has been told of which write error, as the kernel's own `errseq_t` does it.
//!
//! Every error of a file is told once to each handle that was open when it happened. An error that nobody has been told
//! of yet is also told to a handle opened later, so that it is not lost when the writer closed without asking. Programs
//! seldom look at what close says, so being told there does not count: the next fsync says it as well. That there is no space,
//! the next write says, too.

use rfs_common::errno::Errno;

/// The write errors of one file.
#[derive(Debug, Default)]
pub(crate) struct ErrorState {
    /// How many there have been.
    count: u64,
    last: Option<Errno>,
    told: bool,
}

/// What one handle has been told.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ErrorCursor {
    seen: u64,
    /// The same, as it counts for close: nothing from before the handle was opened.
    seen_at_close: u64,
    /// And for writes, which tell of a full cluster only.
    seen_at_write: u64,
}

impl ErrorState {
    /// Something was lost. Until somebody was told, the first reason stays: what follows from a full cluster is not another one.
    pub(crate) fn record(&mut self, errno: Errno) {
        self.count += 1;
        self.last = self.last.filter(|_| !self.told).or(Some(errno));
        self.told = false;
    }

    /// What a handle opened now has seen.
    pub(crate) fn cursor(&self) -> ErrorCursor {
        let seen = if self.last.is_some() && !self.told { self.count - 1 } else { self.count };
        ErrorCursor { seen, seen_at_close: self.count, seen_at_write: self.count }
    }

    /// The error that the handle with this cursor has not been told of.
    pub(crate) fn take(&mut self, cursor: &mut ErrorCursor) -> Result<(), Errno> {
        if cursor.seen == self.count {
            return Ok(());
        }
        *cursor = ErrorCursor { seen: self.count, seen_at_close: self.count, seen_at_write: self.count };
        self.told = true;
        self.last.map_or(Ok(()), Err)
    }

    /// The same for a write: that bytes written before found no space, once. Close does not say it again then.
    pub(crate) fn take_at_write(&self, cursor: &mut ErrorCursor) -> Result<(), Errno> {
        let is_new = cursor.seen != self.count && cursor.seen_at_write != self.count;
        if !is_new || self.last != Some(Errno::ENOSPC) {
            return Ok(());
        }
        (cursor.seen_at_write, cursor.seen_at_close) = (self.count, self.count);
        Err(Errno::ENOSPC)
    }

    /// The same for close: what has happened while the handle was open, once.
    pub(crate) fn take_at_close(&self, cursor: &mut ErrorCursor) -> Result<(), Errno> {
        if cursor.seen == self.count || cursor.seen_at_close == self.count {
            return Ok(());
        }
        cursor.seen_at_close = self.count;
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
        errors.record(Errno::EIO);
        assert_eq!(errors.take(&mut first), Err(Errno::ENOSPC), "the reason, and not what came of it");
        errors.record(Errno::EIO);
        assert_eq!(errors.take(&mut first), Err(Errno::EIO));
    }

    #[test]
    fn what_close_said_is_said_by_fsync_as_well() {
        let mut errors = ErrorState::default();
        let mut writer = errors.cursor();
        errors.record(Errno::EIO);
        assert_eq!([errors.take_at_close(&mut writer), errors.take_at_close(&mut writer)], [Err(Errno::EIO), Ok(())]);
        let mut later = errors.cursor();
        assert_eq!(errors.take_at_close(&mut later), Ok(()), "nothing has happened since it was opened");
        assert_eq!([errors.take(&mut later), errors.take(&mut later)], [Err(Errno::EIO), Ok(())]);
        assert_eq!([errors.take(&mut writer), errors.take_at_close(&mut writer)], [Err(Errno::EIO), Ok(())]);
    }

    #[test]
    fn that_there_is_no_space_is_said_by_the_next_write_once() {
        let mut errors = ErrorState::default();
        let mut writer = errors.cursor();
        errors.record(Errno::EIO);
        assert_eq!(errors.take_at_write(&mut writer), Ok(()), "fsync says that");
        assert_eq!(errors.take(&mut writer), Err(Errno::EIO));
        errors.record(Errno::ENOSPC);
        assert_eq!(errors.take_at_write(&mut errors.cursor()), Ok(()), "opened later");
        assert_eq!(
            [errors.take_at_write(&mut writer), errors.take_at_write(&mut writer)],
            [Err(Errno::ENOSPC), Ok(())]
        );
        assert_eq!(errors.take_at_close(&mut writer), Ok(()));
        assert_eq!([errors.take(&mut writer), errors.take(&mut writer)], [Err(Errno::ENOSPC), Ok(())]);
    }
}
