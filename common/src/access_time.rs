//! When reading a node is to be noted as its last access: Linux's `relatime`, as master and client both apply it.

use std::time::Duration;

use crate::clock::Time;

/// An access that is older than this is replaced also where nothing has changed since.
const OLD_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// The times of a node that decide it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// Last access.
    pub accessed: Time,
    /// Last change of the data.
    pub modified: Time,
    /// Last change of anything.
    pub changed: Time,
}

impl Times {
    /// Whether an access now is to be noted: nothing was read since the last change, or the last access was long ago.
    pub fn access_is_due(&self, now: Time) -> bool {
        self.accessed <= self.modified || self.accessed <= self.changed || now.since(self.accessed) >= OLD_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_access_after_a_change_is_due_and_one_a_day() {
        let times = |accessed, modified, changed| Times {
            accessed: Time::from_seconds(accessed),
            modified: Time::from_seconds(modified),
            changed: Time::from_seconds(changed),
        };
        let now = Time::from_seconds(1_000);
        assert!(times(10, 10, 10).access_is_due(now), "as made");
        assert!(times(10, 20, 5).access_is_due(now) && times(10, 5, 20).access_is_due(now));
        assert!(!times(30, 20, 20).access_is_due(now));
        assert!(times(30, 20, 20).access_is_due(Time::from_seconds(30 + 86_400)));
        assert!(!times(2_000, 20, 20).access_is_due(now), "set to a time that is still to come");
    }
}
