//! POSIX.1e access control lists, in the form in which Linux passes them in extended attributes.
//!
//! The value of `system.posix_acl_access` and `system.posix_acl_default` is a version (4 bytes, 2), then 8 bytes for each
//! entry: tag, permissions, id; all little-endian. What each function does is what the kernel's `fs/posix_acl.c` does, so
//! that a list means here what it means on a local filesystem.
//!
//! What always holds: an [`Acl`] has exactly one entry for the owner, the group and the others, in the kernel's order, and a
//! mask as soon as it names a user or a group.

use rfs_common::errno::Errno;

use super::records::InodeRecord;
use crate::operation::Caller;

/// Name of the list that says who may do what.
pub const ACCESS_XATTR: &[u8] = b"system.posix_acl_access";
/// Name of the list that new nodes of a directory get.
pub const DEFAULT_XATTR: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const ENTRY_BYTES: usize = 8;
const NO_ID: u32 = u32::MAX;

/// Whom an entry is about. The order is the order in which entries must stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tag {
    Owner,
    User,
    OwningGroup,
    Group,
    Mask,
    Others,
}

impl Tag {
    const ALL: [Tag; 6] = [Tag::Owner, Tag::User, Tag::OwningGroup, Tag::Group, Tag::Mask, Tag::Others];

    fn number(self) -> u16 {
        1 << (self as u16)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: Tag,
    permissions: u32,
    id: u32,
}

/// A valid access control list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl {
    entries: Vec<Entry>,
}

impl Acl {
    /// The list in an attribute's value, or nothing if the value says that there is none.
    ///
    /// # Errors
    /// `EOPNOTSUPP` for another version, `EINVAL` for what is not a list.
    pub fn decode(value: &[u8]) -> Result<Option<Acl>, Errno> {
        let Some((version, rest)) = value.split_first_chunk::<4>() else { return Err(Errno::EINVAL) };
        if u32::from_le_bytes(*version) != VERSION {
            return Err(Errno::EOPNOTSUPP);
        }
        let (chunks, rest) = rest.as_chunks::<ENTRY_BYTES>();
        if !rest.is_empty() {
            return Err(Errno::EINVAL);
        }
        if chunks.is_empty() {
            return Ok(None);
        }
        let entries = chunks.iter().map(decode_entry).collect::<Option<Vec<Entry>>>().ok_or(Errno::EINVAL)?;
        let acl = Acl { entries };
        if acl.is_valid() { Ok(Some(acl)) } else { Err(Errno::EINVAL) }
    }

    /// The list as an attribute's value.
    pub fn encode(&self) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for entry in &self.entries {
            value.extend_from_slice(&entry.tag.number().to_le_bytes());
            value.extend_from_slice(&(entry.permissions as u16).to_le_bytes());
            value.extend_from_slice(&entry.id.to_le_bytes());
        }
        value
    }

    /// Whether the list lets the caller do all that is wanted (read 4, write 2, execute 1) with this node.
    pub fn permits(&self, node: &InodeRecord, caller: &Caller, wanted: u32) -> bool {
        let mut in_a_group = false;
        for entry in &self.entries {
            let grants = entry.permissions & wanted == wanted;
            match entry.tag {
                Tag::Owner if caller.user == node.user => return grants,
                Tag::User if caller.user == entry.id => return self.masked(entry, wanted),
                Tag::OwningGroup | Tag::Group => {
                    let group = if entry.tag == Tag::OwningGroup { node.group } else { entry.id };
                    if caller.is_in_group(group) {
                        in_a_group = true;
                        if grants {
                            return self.masked(entry, wanted);
                        }
                    }
                }
                Tag::Others => return !in_a_group && grants,
                Tag::Owner | Tag::User | Tag::Mask => {}
            }
        }
        false
    }

    /// Permission bits (0777) that stand for this list: those of the owner, of the mask (else the group), of the others.
    pub fn mode_bits(&self) -> u32 {
        let group = self.find(Tag::Mask).or_else(|| self.find(Tag::OwningGroup));
        let bits = |entry: Option<&Entry>| entry.map_or(0, |entry| entry.permissions);
        bits(self.find(Tag::Owner)) << 6 | bits(group) << 3 | bits(self.find(Tag::Others))
    }

    /// Whether permission bits alone can say the same.
    pub fn is_minimal(&self) -> bool {
        self.entries.iter().all(|entry| matches!(entry.tag, Tag::Owner | Tag::OwningGroup | Tag::Others))
    }

    /// The list after `chmod`: owner, others, and the mask (else the group) get the new bits.
    #[must_use]
    pub fn with_mode(mut self, mode: u32) -> Acl {
        let group = if self.find(Tag::Mask).is_some() { Tag::Mask } else { Tag::OwningGroup };
        self.set(Tag::Owner, |_| mode >> 6 & 7);
        self.set(group, |_| mode >> 3 & 7);
        self.set(Tag::Others, |_| mode & 7);
        self
    }

    /// The access list of a new node made with this mode in a directory whose default list this is.
    #[must_use]
    pub fn inherited(mut self, mode: u32) -> Acl {
        let group = if self.find(Tag::Mask).is_some() { Tag::Mask } else { Tag::OwningGroup };
        self.set(Tag::Owner, |old| old & mode >> 6);
        self.set(group, |old| old & mode >> 3);
        self.set(Tag::Others, |old| old & mode);
        self
    }

    fn masked(&self, entry: &Entry, wanted: u32) -> bool {
        let mask = self.find(Tag::Mask).map_or(7, |mask| mask.permissions);
        entry.permissions & mask & wanted == wanted
    }

    fn find(&self, tag: Tag) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.tag == tag)
    }

    fn set(&mut self, tag: Tag, permissions: impl FnOnce(u32) -> u32) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.tag == tag) {
            entry.permissions = permissions(entry.permissions) & 7;
        }
    }

    fn is_valid(&self) -> bool {
        let count = |tag: Tag| self.entries.iter().filter(|entry| entry.tag == tag).count();
        let named = count(Tag::User) + count(Tag::Group);
        self.entries.is_sorted_by_key(|entry| entry.tag)
            && [Tag::Owner, Tag::OwningGroup, Tag::Others].into_iter().all(|tag| count(tag) == 1)
            && count(Tag::Mask) <= 1
            && (named == 0 || count(Tag::Mask) == 1)
            && self.entries.iter().all(|entry| !matches!(entry.tag, Tag::User | Tag::Group) || entry.id != NO_ID)
    }
}

fn decode_entry(bytes: &[u8; ENTRY_BYTES]) -> Option<Entry> {
    let [tag_low, tag_high, low, high, id @ ..] = *bytes;
    let number = u16::from_le_bytes([tag_low, tag_high]);
    let tag = Tag::ALL.into_iter().find(|tag| tag.number() == number)?;
    let permissions = u32::from(u16::from_le_bytes([low, high]));
    let id = if matches!(tag, Tag::User | Tag::Group) { u32::from_le_bytes(id) } else { NO_ID };
    (permissions <= 7).then_some(Entry { tag, permissions, id })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The value of a list with these entries: tag, permissions, id.
    pub(crate) fn acl_value(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            value.extend_from_slice(&tag.to_le_bytes());
            value.extend_from_slice(&permissions.to_le_bytes());
            value.extend_from_slice(&id.to_le_bytes());
        }
        value
    }

    fn named_user() -> Acl {
        let value = acl_value(&[(1, 7, NO_ID), (2, 6, 50), (4, 4, NO_ID), (8, 7, 60), (0x10, 5, NO_ID), (0x20, 0, NO_ID)]);
        let acl = Acl::decode(&value).unwrap().unwrap();
        assert_eq!(acl.encode(), value);
        acl
    }

    fn caller(user: u32, group: u32) -> Caller {
        Caller { user, group, groups: Vec::new() }
    }

    #[test]
    fn named_users_and_groups_are_masked_and_the_owner_is_not() {
        let acl = named_user();
        let node = InodeRecord { user: 1, group: 2, ..InodeRecord::default() };
        for (user, group, wanted, permitted) in [
            (1, 9, 7, true),
            (50, 9, 4, true),
            (50, 9, 2, false), // the mask takes write away
            (9, 2, 4, true),
            (9, 2, 1, false),
            (9, 60, 5, true),
            (9, 60, 2, false),
            (9, 9, 4, false),
            (50, 60, 1, false), // a user's own entry decides, not its groups
        ] {
            assert_eq!(acl.permits(&node, &caller(user, group), wanted), permitted, "{user}:{group} {wanted}");
        }
    }

    #[test]
    fn mode_and_list_follow_each_other() {
        let acl = named_user();
        assert_eq!(acl.mode_bits(), 0o750);
        assert!(!acl.is_minimal());
        let changed = acl.clone().with_mode(0o624);
        assert_eq!(changed.mode_bits(), 0o624);
        assert_eq!(changed.find(Tag::OwningGroup).unwrap().permissions, 4, "the mask changes, the group does not");
        assert_eq!(acl.inherited(0o666).mode_bits(), 0o640);
    }

    #[test]
    fn refuses_what_is_not_a_list() {
        for value in [
            vec![],
            acl_value(&[(1, 7, 0), (4, 7, 0)]),
            acl_value(&[(4, 7, 0), (1, 7, 0), (0x20, 7, 0)]),
            acl_value(&[(1, 7, 0), (2, 7, 5), (4, 7, 0), (0x20, 7, 0)]),
            acl_value(&[(1, 8, 0), (4, 7, 0), (0x20, 7, 0)]),
            acl_value(&[(1, 7, 0), (4, 7, 0), (0x20, 7, 0), (0x20, 7, 0)]),
            acl_value(&[(3, 7, 0), (4, 7, 0), (0x20, 7, 0)]),
        ] {
            assert_eq!(Acl::decode(&value), Err(Errno::EINVAL), "{value:?}");
        }
        assert_eq!(Acl::decode(&[1, 0, 0, 0]), Err(Errno::EOPNOTSUPP));
        assert_eq!(Acl::decode(&acl_value(&[])), Ok(None));
    }
}
