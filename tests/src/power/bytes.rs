//! Which bytes a file may have: see the rules in the parent module.

use super::content::{Described, Image, SECTOR_BYTES, stamped};

/// A change of a file's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Where, how long, which write.
    Write(u64, u64, u32),
    /// An append that went somewhere else than its bytes say: where, how long, which write, where they say.
    Astray(u64, u64, u32, u64),
    /// To this length.
    Truncate(u64),
}

impl Change {
    /// The bytes it changes; of a truncation the one behind the new end.
    fn range(self) -> (u64, u64) {
        match self {
            Self::Write(at, length, _) | Self::Astray(at, length, ..) => (at, at + length),
            Self::Truncate(length) => (length, length + 1),
        }
    }

    /// What it wrote to these places of its range.
    fn bytes(self, inode: u64, start: u64, end: u64) -> Vec<u8> {
        let length = (end - start) as usize;
        match self {
            Self::Write(_, _, generation) => stamped(inode, generation, start, length),
            Self::Astray(at, _, generation, said) => stamped(inode, generation, said + (start - at), length),
            Self::Truncate(_) => Vec::new(),
        }
    }
}

/// What may have become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is there.
    Kept,
    /// No fsync covers it yet.
    Unsynced,
    /// It was under way, failed, or an fsync told that it may be lost.
    Unknown,
}

/// A change in a file's history.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// What.
    pub change: Change,
    /// What may have become of it.
    pub fate: Fate,
    /// When it was acknowledged.
    pub ended_ns: u64,
    /// When the handle it was made through was closed.
    pub closed_ns: Option<u64>,
}

impl Event {
    /// Whether its handle was closed only then or later, so that not all of it may have been handed over before.
    pub(super) fn is_open_at(&self, time_ns: u64) -> bool {
        self.closed_ns.is_none_or(|closed_ns| closed_ns >= time_ns)
    }
}

/// Which unsynced changes may be missing together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The last ones.
    Suffix,
    /// Any.
    Subset,
}

/// More in doubt than this are not told apart.
const DOUBTFUL_MAX: usize = 14;

/// More combinations than this are not looked at for halves.
const HALVES_MAX: usize = 1024;

/// As many as there are bits in a set of them.
const EVENTS_MAX: usize = 127;

/// A file: what is certain, and what came after.
#[derive(Clone, Debug, Default)]
pub struct History {
    inode: u64,
    base: Image,
    events: Vec<Event>,
}

impl History {
    /// One that has these bytes for certain.
    pub fn certain(inode: u64, base: Image) -> Self {
        Self { inode, base, events: Vec::new() }
    }

    /// Changes since it was last certain.
    pub fn events_mut(&mut self) -> &mut Vec<Event> {
        &mut self.events
    }

    /// fsync returned 0.
    pub fn synced(&mut self) {
        for event in self.events.iter_mut().filter(|event| event.fate == Fate::Unsynced) {
            event.fate = Fate::Kept;
        }
        let certain = self.events.iter().take_while(|event| event.fate == Fate::Kept).count();
        for event in self.events.drain(..certain) {
            match event.change {
                Change::Truncate(length) => self.base.truncate(length),
                change => {
                    let (start, end) = change.range();
                    self.base.write(start, &change.bytes(self.inode, start, end));
                }
            }
        }
    }

    /// fsync returned an error: what it would have covered may be lost.
    pub fn sync_failed(&mut self) {
        for event in self.events.iter_mut().filter(|event| event.fate == Fate::Unsynced) {
            event.fate = Fate::Unknown;
        }
    }

    /// Whether there is anything that no fsync covers.
    pub fn is_certain(&self) -> bool {
        self.events.iter().all(|event| event.fate == Fate::Kept)
    }

    /// Whether `found` may be left of it.
    ///
    /// # Errors
    /// In words: what is wrong where.
    pub fn judge(&self, found: &Image, loss: Loss) -> Result<(), String> {
        let combinations = self.combinations(loss)?;
        if !combinations.iter().any(|done| self.length(*done) == found.length()) {
            let mut lengths: Vec<u64> = combinations.iter().map(|done| self.length(*done)).collect();
            lengths.dedup();
            return Err(format!("it has {} bytes; possible: {lengths:?}; {}", found.length(), self.words()));
        }
        // How many bytes of a chunk are valid is kept apart from them: an unsynced write may be there up to the old end.
        let mut ends: Vec<u64> = combinations.iter().map(|done| self.length(*done)).collect();
        ends.retain(|end| *end >= self.base.length());
        ends.sort_unstable();
        ends.dedup();
        let mut places: Vec<u64> = self.base.blocks().chain(found.blocks()).chain(self.written_blocks()).collect();
        places.sort_unstable();
        places.dedup();
        for place in places.into_iter().flat_map(|block| (0..8).map(move |sector| block + sector * SECTOR_BYTES)) {
            let visible = found.length().saturating_sub(place).min(SECTOR_BYTES) as usize;
            let bytes = found.read(place, visible);
            let fits = |done: &u128| {
                let sector = self.sector(place, *done);
                let may_be_zeros = |at: usize| loss == Loss::Subset && self.may_be_zeroed(place + at as u64, *done);
                let is_zeroed =
                    || (0..visible).all(|at| bytes[at] == sector[at] || (bytes[at] == 0 && may_be_zeros(at)));
                sector[..visible] == bytes
                    || ends.iter().any(|end| is_cut(&sector[..visible], &bytes, place, *end))
                    || is_zeroed()
            };
            let is_half = || self.is_half_of_an_unsynced_write(place, &bytes, &combinations);
            if visible > 0 && !combinations.iter().any(fits) && !is_half() {
                let described = Described { offset: place, bytes: &bytes };
                return Err(format!(
                    "at {place} it has {described}; {}",
                    self.expected_words(place, visible, &combinations)
                ));
            }
        }
        Ok(())
    }

    /// Whether a write in doubt is there up to some place and zeros stand from there on, as they did before it: its bytes went to the
    /// chunk, and the commit that would have made more of them valid than were before a cut of the file did not come.
    fn is_half_of_an_unsynced_write(&self, place: u64, bytes: &[u8], combinations: &[u128]) -> bool {
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let sectors: Vec<Vec<u8>> =
            combinations.iter().take(HALVES_MAX).map(|done| self.sector(place, *done)).collect();
        sectors.iter().any(|with| with[..end] == bytes[..end])
            && sectors.iter().any(|without| without[end..bytes.len()].iter().all(|byte| *byte == 0))
    }

    /// Sets of events that may have been done, as bits, the whole first.
    fn combinations(&self, loss: Loss) -> Result<Vec<u128>, String> {
        if self.events.len() > EVENTS_MAX {
            return Err(format!("{} changes are too many to be judged", self.events.len()));
        }
        let at = |fate: Fate| (0..self.events.len()).filter(move |at| self.events[*at].fate == fate);
        let kept = at(Fate::Kept).fold(0_u128, |bits, at| bits | 1 << at);
        let unsynced: Vec<usize> = at(Fate::Unsynced).collect();
        let unknown: Vec<usize> = at(Fate::Unknown).collect();
        let free = unknown.len() + if loss == Loss::Subset { unsynced.len() } else { 0 };
        if free > DOUBTFUL_MAX {
            return Err(format!("more is in doubt than can be judged: {}", self.words()));
        }
        let of_unsynced = match loss {
            Loss::Suffix => (0..=unsynced.len()).rev().map(|kept| bits(&unsynced[..kept])).collect(),
            Loss::Subset => subsets(&unsynced),
        };
        let of_unknown = subsets(&unknown);
        Ok(of_unsynced.iter().flat_map(|one| of_unknown.iter().map(move |other| kept | one | other)).collect())
    }

    fn done(&self, done: u128) -> impl Iterator<Item = &Event> {
        self.events.iter().enumerate().filter(move |(at, _)| done >> at & 1 == 1).map(|(_, event)| event)
    }

    fn length(&self, done: u128) -> u64 {
        self.done(done).fold(self.base.length(), |length, event| match event.change {
            Change::Truncate(length) => length,
            change => length.max(change.range().1),
        })
    }

    /// Whether this byte was written by a write that was told to be lost: some copies may have taken it and others not, so
    /// all of them zero its place.
    fn may_be_zeroed(&self, place: u64, done: u128) -> bool {
        let lost = |(at, event): (usize, &Event)| {
            let (start, end) = event.change.range();
            let is_write = !matches!(event.change, Change::Truncate(_));
            is_write && event.fate == Fate::Unknown && done >> at & 1 == 0 && (start..end).contains(&place)
        };
        self.events.iter().enumerate().any(lost)
    }

    /// The bytes of a sector, if `done` was done.
    fn sector(&self, place: u64, done: u128) -> Vec<u8> {
        let mut bytes = self.base.read(place, SECTOR_BYTES as usize);
        for event in self.done(done) {
            match event.change {
                Change::Truncate(length) => bytes[length.saturating_sub(place).min(SECTOR_BYTES) as usize..].fill(0),
                change => {
                    let (from, to) = change.range();
                    let (start, end) = (from.max(place), to.min(place + SECTOR_BYTES));
                    if start < end {
                        let new = change.bytes(self.inode, start, end);
                        bytes[(start - place) as usize..][..new.len()].copy_from_slice(&new);
                    }
                }
            }
        }
        bytes
    }

    fn written_blocks(&self) -> impl Iterator<Item = u64> {
        self.events.iter().flat_map(|event| {
            let (start, end) = event.change.range();
            (start / 4096..end.div_ceil(4096)).map(|block| block * 4096)
        })
    }

    fn expected_words(&self, place: u64, visible: usize, combinations: &[u128]) -> String {
        let mut possible: Vec<String> = combinations
            .iter()
            .map(|done| Described { offset: place, bytes: &self.sector(place, *done)[..visible] }.to_string())
            .collect();
        possible.sort();
        possible.dedup();
        possible.truncate(4);
        format!("possible: {}; {}", possible.join(" | "), self.words())
    }

    fn words(&self) -> String {
        let events: Vec<String> =
            self.events.iter().map(|event| format!("{:x?} {:?}", event.change, event.fate)).collect();
        format!("certain were {} bytes, then [{}]", self.base.length(), events.join(", "))
    }
}

/// Whether `found` is `whole` up to the place `end` in the file and zeros behind it.
fn is_cut(whole: &[u8], found: &[u8], place: u64, end: u64) -> bool {
    let kept = end.saturating_sub(place).min(whole.len() as u64) as usize;
    whole[..kept] == found[..kept] && found[kept..].iter().all(|byte| *byte == 0)
}

fn bits(places: &[usize]) -> u128 {
    places.iter().fold(0, |bits, at| bits | 1 << at)
}

fn subsets(places: &[usize]) -> Vec<u128> {
    (0..1_u128 << places.len())
        .rev()
        .map(|chosen| {
            let taken: Vec<usize> =
                places.iter().enumerate().filter(|(bit, _)| chosen >> bit & 1 == 1).map(|(_, at)| *at).collect();
            bits(&taken)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(changes: &[(Change, Fate)]) -> History {
        let mut history = History::certain(7, Image::default());
        history.base.write(0, &stamped(7, 1, 0, 2048));
        history.events.extend(changes.iter().map(|(change, fate)| Event {
            change: *change,
            fate: *fate,
            ended_ns: 0,
            closed_ns: None,
        }));
        history
    }

    fn image(writes: &[(u64, u64, u32)], length: u64) -> Image {
        let mut image = Image::default();
        for (offset, bytes, generation) in writes {
            image.write(*offset, &stamped(7, *generation, *offset, *bytes as usize));
        }
        image.truncate(length);
        image
    }

    #[test]
    fn an_unsynced_overwrite_is_there_or_not_sector_by_sector() {
        let history = history(&[(Change::Write(0, 1024, 2), Fate::Unsynced)]);
        let judged = |writes: &[(u64, u64, u32)]| history.judge(&image(writes, 2048), Loss::Suffix);
        assert_eq!(judged(&[(0, 2048, 1)]), Ok(()));
        assert_eq!(judged(&[(0, 2048, 1), (0, 1024, 2)]), Ok(()));
        assert_eq!(judged(&[(0, 2048, 1), (512, 512, 2)]), Ok(()));
        assert!(judged(&[(0, 2048, 1), (0, 256, 2)]).is_err(), "a sector is mixed");
        assert!(judged(&[(0, 2048, 1), (1024, 512, 2)]).is_err(), "where it was not written");
        assert!(judged(&[(512, 1536, 1)]).is_err(), "certain bytes became zeros");
    }

    #[test]
    fn a_write_that_was_told_to_be_lost_may_have_been_zeroed_and_nothing_else() {
        let changes = [(Change::Write(600, 100, 2), Fate::Unknown)];
        let mut found = image(&[(0, 2048, 1)], 2048);
        found.write(600, &[0; 100]);
        assert_eq!(history(&changes).judge(&found, Loss::Subset), Ok(()));
        assert!(history(&changes).judge(&found, Loss::Suffix).is_err());
        assert!(history(&[(Change::Write(600, 100, 2), Fate::Unsynced)]).judge(&found, Loss::Subset).is_err());
        found.write(700, &[0; 16]);
        assert!(history(&changes).judge(&found, Loss::Subset).is_err());
    }

    #[test]
    fn an_append_is_where_it_went_with_the_bytes_it_brought() {
        let history = history(&[(Change::Astray(2048, 512, 2, 4096), Fate::Kept)]);
        let mut found = image(&[(0, 2048, 1)], 2048);
        found.write(2048, &stamped(7, 2, 4096, 512));
        assert_eq!(history.judge(&found, Loss::Suffix), Ok(()));
        assert!(history.judge(&image(&[(0, 2048, 1), (2048, 512, 2)], 2560), Loss::Suffix).is_err());
    }

    #[test]
    fn later_changes_go_first_unless_any_may() {
        let changes = [(Change::Write(0, 512, 2), Fate::Unsynced), (Change::Write(256, 256, 3), Fate::Unsynced)];
        let only_second = image(&[(0, 2048, 1), (256, 256, 3)], 2048);
        assert!(history(&changes).judge(&only_second, Loss::Suffix).is_err());
        assert_eq!(history(&changes).judge(&only_second, Loss::Subset), Ok(()));
    }

    #[test]
    fn an_unsynced_extension_may_be_shorter_or_zeros_and_a_kept_cut_stays() {
        let longer = history(&[(Change::Write(2048, 1024, 2), Fate::Unsynced)]);
        assert_eq!(longer.judge(&image(&[(0, 2048, 1)], 2048), Loss::Suffix), Ok(()));
        assert_eq!(longer.judge(&image(&[(0, 2048, 1)], 3072), Loss::Suffix), Ok(()));
        assert!(longer.judge(&image(&[(0, 2048, 1)], 2560), Loss::Suffix).is_err(), "a length it never had");
        let cut = history(&[(Change::Truncate(512), Fate::Kept), (Change::Truncate(2048), Fate::Unsynced)]);
        assert_eq!(cut.judge(&image(&[(0, 512, 1)], 2048), Loss::Suffix), Ok(()));
        assert!(cut.judge(&image(&[(0, 2048, 1)], 2048), Loss::Suffix).is_err(), "what was cut off is back");
    }

    #[test]
    fn an_unsynced_write_may_end_where_the_file_was_cut_and_a_kept_one_may_not() {
        let cut = [(Change::Truncate(700), Fate::Kept), (Change::Truncate(2048), Fate::Kept)];
        let found = image(&[(0, 700, 2)], 2048);
        let doubtful = history(&[&cut[..], &[(Change::Write(0, 2048, 2), Fate::Unsynced)]].concat());
        assert_eq!(doubtful.judge(&found, Loss::Subset), Ok(()));
        let kept = history(&[&cut[..], &[(Change::Write(0, 2048, 2), Fate::Kept)]].concat());
        assert!(kept.judge(&found, Loss::Subset).is_err());
    }

    #[test]
    fn what_a_sync_covers_is_certain_unless_it_was_told_lost() {
        let mut history = history(&[(Change::Write(0, 512, 2), Fate::Unsynced)]);
        history.sync_failed();
        history.events.push(Event { change: Change::Write(512, 512, 3), ..history.events[0] });
        history.events[1].fate = Fate::Unsynced;
        history.synced();
        assert_eq!(history.judge(&image(&[(0, 2048, 1), (512, 512, 3)], 2048), Loss::Suffix), Ok(()));
        assert!(history.judge(&image(&[(0, 2048, 1)], 2048), Loss::Suffix).is_err());
        assert!(!history.is_certain());
    }
}
