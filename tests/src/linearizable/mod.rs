//! Timed histories of several mounts, and whether each file and each directory behaved like one.
//!
//! Threads on every mount make random calls on few objects, so that they meet all the time. Each notes when a call began and
//! ended, in one sequence of numbers, and what it answered. After some hundred calls an object is replaced by a fresh one, so
//! that histories stay short. [`checker`] then looks for an order in which each call takes effect at one moment between
//! its two ends; if there is none, somebody was shown something old, or something that never was.

pub mod checker;

pub mod objects;

mod workload;

use std::fmt::Write as _;

use checker::{Call, Model, Refuted};
use rfs_common::clock::Time;

use objects::{FileAnswer, FileCall, FileModel, NameAnswer, NameCall, NamesModel};

pub use workload::{Recorder, work};

/// The calls on one object, in any order.
pub type History<I, O> = Vec<Call<I, O>>;

/// The histories of all objects.
#[derive(Debug, Default)]
pub struct Histories {
    /// Of files.
    pub files: Vec<History<FileCall, FileAnswer>>,
    /// Of directories.
    pub directories: Vec<History<NameCall, NameAnswer>>,
    /// Calls that failed in a way that is no answer.
    pub failures: Vec<String>,
    /// When some of the numbers by which calls are ordered were given.
    pub moments: Vec<(u64, Time)>,
}

impl Histories {
    /// All calls.
    pub fn call_count(&self) -> usize {
        self.files.iter().map(Vec::len).sum::<usize>() + self.directories.iter().map(Vec::len).sum::<usize>()
    }

    /// Those that no order explains, in words.
    pub fn refuted(&self) -> Vec<String> {
        let when = |number| self.moments.iter().filter(|(at, _)| *at <= number).max().map(|(_, time)| *time);
        let files = self.files.iter().filter_map(|history| refuted::<FileModel>("file", history, when));
        let directories =
            self.directories.iter().filter_map(|history| refuted::<NamesModel>("directory", history, when));
        files.chain(directories).collect()
    }

    /// Has one read of a file give what the block had before, though the later write was over when the read began. False if
    /// no history has such a read.
    pub fn make_one_read_stale(&mut self) -> bool {
        self.files.iter_mut().any(make_one_read_stale)
    }
}

fn make_one_read_stale(history: &mut History<FileCall, FileAnswer>) -> bool {
    let ended = |call: &Call<FileCall, FileAnswer>| call.ended.as_ref().map_or(u64::MAX, |(at, _)| *at);
    for (reader, call) in history.iter().enumerate() {
        let FileCall::Read(block) = call.input else { continue };
        let over: Vec<(&Call<_, _>, u64)> = history
            .iter()
            .filter(|write| ended(write) < call.began)
            .filter_map(|write| match write.input {
                FileCall::Write(written, number) if written == block => Some((write, number)),
                _ => None,
            })
            .collect();
        let old = over.iter().find(|(write, _)| over.iter().any(|(later, _)| ended(write) < later.began));
        if let (Some((_, number)), Some(end)) = (old, call.ended.as_ref().map(|(at, _)| *at)) {
            history[reader].ended = Some((end, FileAnswer::Block(Some(*number))));
            return true;
        }
    }
    false
}

/// Why a history is not one of such an object, if it is not.
fn refuted<M: Model>(
    what: &str,
    history: &History<M::Input, M::Output>,
    when: impl Fn(u64) -> Option<Time>,
) -> Option<String> {
    let Refuted { explained, stuck } = checker::check::<M>(history).err()?;
    let stuck = &history[stuck];
    let mut text = format!(
        "a {what} of {} calls: {} can be explained, and then this, of about {:?}, has no place:\n",
        history.len(),
        explained.len(),
        when(stuck.began)
    );
    let mut show = |call: &Call<M::Input, M::Output>| {
        let ended = call.ended.as_ref().map_or_else(|| "?".to_owned(), |(at, answer)| format!("{at}: {answer:?}"));
        let _infallible = writeln!(text, "  thread {}, {} {:?} {ended}", call.by, call.began, call.input);
    };
    show(stuck);
    show_around(history, stuck, &mut show);
    Some(text)
}

/// Calls shown on each side of the one without a place.
const SHOWN: usize = 14;

fn show_around<I: Clone, O: Clone>(history: &History<I, O>, stuck: &Call<I, O>, show: &mut impl FnMut(&Call<I, O>)) {
    let mut sorted: Vec<&Call<I, O>> = history.iter().collect();
    sorted.sort_by_key(|call| call.began);
    let at = sorted.iter().position(|call| call.began == stuck.began).unwrap_or(0);
    let shown = &sorted[at.saturating_sub(SHOWN)..(at + SHOWN).min(sorted.len())];
    shown.iter().for_each(|call| show(call));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_injected_stale_read_is_found() {
        let call = |began, input, answer| Call { by: 0, began, ended: Some((began + 1, answer)), input };
        let history = vec![
            call(1, FileCall::Write(0, 7), FileAnswer::Done),
            call(3, FileCall::Write(0, 8), FileAnswer::Done),
            call(5, FileCall::Read(0), FileAnswer::Block(Some(8))),
            call(7, FileCall::Stat, FileAnswer::Stat(objects::BLOCK_BYTES as u64, objects::FIRST_MODE)),
        ];
        let mut histories = Histories { files: vec![history], ..Histories::default() };
        assert_eq!(histories.refuted(), Vec::<String>::new());
        assert!(histories.make_one_read_stale());
        assert!(histories.refuted()[0].contains("Read(0) 6: Block(Some(7))"), "{:?}", histories.refuted());
    }
}
