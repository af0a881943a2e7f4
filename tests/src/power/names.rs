//! Which names may be found: the result of an actor's changes up to some moment.

use std::collections::BTreeMap;

use super::journal::Act;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A folder.
    Folder,
    /// A file with this inode number; none if nobody was told it.
    File(Option<u64>),
}

/// All names below an actor's folder, by path.
pub type Names = BTreeMap<String, Entry>;

/// What may have become of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is there.
    Kept,
    /// Acknowledged shortly before the master's power went: it may be missing if all such changes after it are, too.
    Losable,
    /// It was under way, or failed in a way that does not tell.
    Unknown,
}

/// A change of names.
#[derive(Clone, Debug)]
pub struct Change {
    /// What.
    pub act: Act,
    /// The inode number that a creation gave.
    pub inode: Option<u64>,
    /// What may have become of it.
    pub fate: Fate,
}

/// How many changes of unknown fate are looked at in all their combinations.
const UNKNOWN_MAX: usize = 10;

impl Change {
    /// Whether it changes an entry of this folder.
    pub fn touches(&self, folder: &str) -> bool {
        let within = |path: &String| parent(path) == folder;
        match &self.act {
            Act::Create(path) | Act::Mkdir(path) | Act::Unlink(path) | Act::Rmdir(path) => within(path),
            Act::Link(_, to) => within(to),
            Act::Rename(from, to) => within(from) || within(to),
            _ => false,
        }
    }
}

/// The folder a path lies in; empty for the actor's own.
pub fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Does to `names` what `change` does; false if that is not possible.
pub fn apply(names: &mut Names, change: &Change) -> bool {
    let has_folder = |names: &Names, path: &str| {
        let folder = parent(path);
        folder.is_empty() || names.get(folder) == Some(&Entry::Folder)
    };
    match &change.act {
        Act::Create(path) => {
            has_folder(names, path) && names.insert(path.clone(), Entry::File(change.inode)).is_none()
        }
        Act::Mkdir(path) => has_folder(names, path) && names.insert(path.clone(), Entry::Folder).is_none(),
        Act::Link(from, to) => match names.get(from) {
            Some(&file @ Entry::File(_)) => has_folder(names, to) && names.insert(to.clone(), file).is_none(),
            _ => false,
        },
        Act::Unlink(path) => matches!(names.remove(path), Some(Entry::File(_))),
        Act::Rmdir(path) => is_empty(names, path) && names.remove(path) == Some(Entry::Folder),
        Act::Rename(from, to) => rename(names, from, to),
        _ => true,
    }
}

fn is_empty(names: &Names, folder: &str) -> bool {
    !names.keys().any(|path| parent(path) == folder)
}

fn rename(names: &mut Names, from: &str, to: &str) -> bool {
    if names.get(to).is_some_and(|entry| *entry == Entry::Folder && !is_empty(names, to)) {
        return false;
    }
    let Some(entry) = names.remove(from) else { return false };
    // Two names of one file: rename leaves both (POSIX).
    if entry != Entry::Folder && names.get(to) == Some(&entry) {
        names.insert(from.to_owned(), entry);
        return true;
    }
    let inside = format!("{from}/");
    let moved: Vec<String> = names.keys().filter(|path| path.starts_with(&inside)).cloned().collect();
    for path in moved {
        let entry = names.remove(&path).expect("just seen");
        names.insert(format!("{to}/{}", &path[inside.len()..]), entry);
    }
    names.insert(to.to_owned(), entry);
    true
}

/// Whether `found` may be left of `changes` made to `before`; how many acknowledged ones are missing then (as few as can be).
///
/// # Errors
/// In words: how what is found differs from what comes nearest to it.
pub fn judge(before: &Names, changes: &[Change], found: &Names) -> Result<usize, String> {
    let unknown: Vec<usize> = (0..changes.len()).filter(|at| changes[*at].fate == Fate::Unknown).collect();
    if unknown.len() > UNKNOWN_MAX {
        return Err(format!("{} changes failed or did not end: {:?}", unknown.len(), changes[unknown[0]].act));
    }
    let losable = changes.iter().filter(|change| change.fate == Fate::Losable).count();
    let mut nearest: Option<(usize, String)> = None;
    for lost in 0..=losable {
        for done in (0..1_u32 << unknown.len()).rev() {
            let is_done = |at: usize| unknown.iter().position(|one| *one == at).is_some_and(|bit| done >> bit & 1 == 1);
            let said = match result(before, changes, losable - lost, is_done) {
                Ok(names) if agree(&names, found) => return Ok(lost),
                Ok(names) => differences(&names, found),
                Err(change) => (usize::MAX, format!("{:?} was acknowledged, but was not possible", change.act)),
            };
            if nearest.as_ref().is_none_or(|(count, _)| said.0 < *count) {
                nearest = Some((said.0, format!("compared with {lost} of {losable} losable changes lost: {}", said.1)));
            }
        }
    }
    Err(format!("no moment fits; {}", nearest.map_or_else(String::new, |(_, words)| words)))
}

/// The names after these changes; the one that was not possible.
fn result<'a>(
    before: &Names,
    changes: &'a [Change],
    kept: usize,
    is_done: impl Fn(usize) -> bool,
) -> Result<Names, &'a Change> {
    let mut names = before.clone();
    let mut losable_seen = 0;
    for (at, change) in changes.iter().enumerate() {
        let done = match change.fate {
            Fate::Kept => true,
            Fate::Losable => {
                losable_seen += 1;
                losable_seen <= kept
            }
            Fate::Unknown => is_done(at),
        };
        if done && !apply(&mut names, change) {
            return Err(change);
        }
    }
    Ok(names)
}

fn agree(expected: &Names, found: &Names) -> bool {
    expected.len() == found.len()
        && expected.iter().zip(found).all(|((path, entry), (found_path, found_entry))| {
            path == found_path
                && match (entry, found_entry) {
                    (Entry::File(None), Entry::File(_)) => true,
                    (entry, found) => entry == found,
                }
        })
}

fn differences(expected: &Names, found: &Names) -> (usize, String) {
    let mut said = Vec::new();
    for (path, entry) in expected {
        match found.get(path) {
            None => said.push(format!("{path} is lost ({entry:?})")),
            Some(other) if other != entry => said.push(format!("{path} is {other:?}, not {entry:?}")),
            Some(_) => {}
        }
    }
    for (path, entry) in found.iter().filter(|(path, _)| !expected.contains_key(*path)) {
        said.push(format!("{path} is there again ({entry:?})"));
    }
    let count = said.len();
    said.truncate(12);
    (count, said.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(act: Act, fate: Fate) -> Change {
        Change { act, inode: Some(7), fate }
    }

    fn names(paths: &[&str]) -> Names {
        paths.iter().map(|path| ((*path).to_owned(), Entry::File(Some(7)))).collect()
    }

    #[test]
    fn the_last_changes_may_be_missing_but_not_one_in_between() {
        let changes = [
            change(Act::Create("a".into()), Fate::Kept),
            change(Act::Rename("a".into(), "b".into()), Fate::Losable),
            change(Act::Link("b".into(), "c".into()), Fate::Losable),
        ];
        let judged = |found: &[&str]| judge(&Names::new(), &changes, &names(found));
        assert_eq!(judged(&["b", "c"]), Ok(0));
        assert_eq!(judged(&["b"]), Ok(1));
        assert_eq!(judged(&["a"]), Ok(2));
        assert!(judged(&["a", "c"]).is_err());
        assert!(judged(&[]).is_err(), "what was kept is lost");
    }

    #[test]
    fn a_deletion_that_was_kept_is_not_undone() {
        let changes = [change(Act::Unlink("a".into()), Fate::Kept)];
        assert!(judge(&names(&["a"]), &changes, &names(&["a"])).is_err_and(|said| said.contains("there again")));
        let changes = [change(Act::Unlink("a".into()), Fate::Unknown)];
        assert_eq!(judge(&names(&["a"]), &changes, &names(&["a"])), Ok(0));
        assert_eq!(judge(&names(&["a"]), &changes, &Names::new()), Ok(0));
    }
}
