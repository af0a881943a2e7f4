//! Extended attributes of a node that are known here: values, and that there are none.
//!
//! What is kept belongs to one revision of the node, which every change of an extended attribute raises. So it is as right as
//! the node's attributes are, and needs no recall of its own. A node keeps few and small ones; they are asked for when they
//! are listed with colours, copied, or run.

use std::collections::HashMap;
use std::sync::Arc;

/// Names kept for one node.
const NAMES_MAX: usize = 16;

/// Longer values are not kept.
const VALUE_BYTES_MAX: usize = 1024;

/// What is known of one node's extended attributes.
#[derive(Debug, Default)]
pub struct Xattrs {
    revision: u64,
    /// Nothing: there is no such attribute.
    values: HashMap<Box<[u8]>, Option<Arc<[u8]>>>,
}

impl Xattrs {
    /// What the node has under this name in this revision, if that is known.
    pub fn get(&self, revision: u64, name: &[u8]) -> Option<Option<Arc<[u8]>>> {
        self.values.get(name).filter(|_| self.revision == revision).cloned()
    }

    /// Keeps what the node has under this name in this revision. What was kept of another one goes.
    pub fn keep(&mut self, revision: u64, name: &[u8], value: Option<&[u8]>) {
        if self.revision != revision || self.values.len() >= NAMES_MAX {
            (self.revision, self.values) = (revision, HashMap::new());
        }
        if value.is_none_or(|value| value.len() <= VALUE_BYTES_MAX) {
            self.values.insert(name.into(), value.map(Arc::from));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_of_one_revision() {
        let mut xattrs = Xattrs::default();
        xattrs.keep(3, b"user.a", Some(b"1"));
        xattrs.keep(3, b"user.b", None);
        assert_eq!(xattrs.get(3, b"user.a"), Some(Some(Arc::from(&b"1"[..]))));
        assert_eq!(xattrs.get(3, b"user.b"), Some(None));
        assert_eq!((xattrs.get(3, b"user.c"), xattrs.get(4, b"user.a")), (None, None));
        xattrs.keep(4, b"user.b", None);
        assert_eq!(xattrs.get(4, b"user.a"), None);
    }

    #[test]
    fn little_is_kept() {
        let mut xattrs = Xattrs::default();
        xattrs.keep(1, b"user.long", Some(&[0; VALUE_BYTES_MAX + 1]));
        assert_eq!(xattrs.get(1, b"user.long"), None);
        (0..100u8).for_each(|number| xattrs.keep(1, &[number], None));
        assert!(xattrs.values.len() <= NAMES_MAX);
    }
}
