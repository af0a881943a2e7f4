//! How far drains are, as a row and in words.

use rfs_common::size::ByteSize;
use rfs_proto::admin as wire;
use serde::Serialize;

use super::health::{counted, duration};
use crate::chunks::{DrainHindrance, DrainView};

/// How far the drain of a volume is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the fields are documented in admin.proto")]
pub struct DrainRow {
    pub drained: bool,
    pub chunks_left: u64,
    pub bytes_left: u64,
    pub kept: u64,
    pub time_left_ms: Option<u64>,
    pub with_server: bool,
    pub hindrance: String,
    /// It does not finish by itself.
    pub stuck: bool,
    /// All of that in one clause.
    pub words: String,
}

impl From<DrainView> for DrainRow {
    fn from(view: DrainView) -> DrainRow {
        DrainRow {
            words: words(&view),
            drained: view.drained,
            chunks_left: view.chunks_left,
            bytes_left: view.bytes_left,
            kept: view.kept,
            time_left_ms: view.time_left.map(|left| left.as_millis() as u64),
            with_server: view.with_server,
            stuck: matches!(view.hindrance, Some(DrainHindrance::NoPlace { .. } | DrainHindrance::NoGoodCopy(_))),
            hindrance: view.hindrance.as_ref().map(hindrance).unwrap_or_default(),
        }
    }
}

fn words(view: &DrainView) -> String {
    let left =
        format!("{} with about {} left", counted(view.chunks_left, "chunk"), ByteSize::new(view.bytes_left).rounded());
    match (view.drained, &view.hindrance, view.time_left) {
        (true, ..) => drained(view),
        (_, Some(reason), _) => format!("{left}; {}", hindrance(reason)),
        (_, None, Some(time)) => format!("{left}, about {}", duration(time.as_secs().max(1))),
        (_, None, None) => left,
    }
}

fn drained(view: &DrainView) -> String {
    let mut words = "nothing that is needed is on it, and it may be taken away".to_owned();
    if view.kept > 0 {
        words += &format!(
            "; it still holds {} that no record knows, kept for orphan_chunk_grace in case the metadata came from an older export",
            counted(view.kept, "copy")
        );
    } else if view.chunks_left > 0 {
        words += &format!("; {} on it cannot be deleted", counted(view.chunks_left, "copy"));
    }
    words
}

fn hindrance(hindrance: &DrainHindrance) -> String {
    match hindrance {
        DrainHindrance::NotHere => {
            "it cannot be read now: what it has is copied once it is back, or made anew from other copies".to_owned()
        }
        DrainHindrance::Wait(reason) => format!("it waits: {reason}"),
        DrainHindrance::NoGoodCopy(chunk) => {
            format!("it cannot finish: no good copy of chunk {chunk} is here to be copied; `rfs status` names its file")
        }
        DrainHindrance::NoPlace { chunk, goal, connected, full } => {
            let full = match full {
                0 => String::new(),
                full => format!(", {} without room", counted(*full as u64, "volume")),
            };
            format!(
                "it cannot finish: chunk {chunk} of goal {goal} has no other place ({} connected{full}); add chunkservers or \
                 space, lower the goal, or cancel the drain",
                counted(*connected as u64, "chunkserver")
            )
        }
    }
}

impl From<DrainRow> for wire::Drain {
    fn from(row: DrainRow) -> wire::Drain {
        wire::Drain {
            drained: row.drained,
            chunks_left: row.chunks_left,
            bytes_left: row.bytes_left,
            kept: row.kept,
            time_left_ms: row.time_left_ms,
            with_server: row.with_server,
            hindrance: row.hindrance,
            stuck: row.stuck,
            words: row.words,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rfs_common::ids::ChunkId;

    use super::*;

    fn view() -> DrainView {
        DrainView {
            drained: false,
            chunks_left: 34,
            bytes_left: 1 << 30,
            kept: 0,
            time_left: Some(Duration::from_secs(300)),
            with_server: false,
            hindrance: None,
        }
    }

    #[test]
    fn a_drain_is_told_in_one_clause() {
        assert_eq!(DrainRow::from(view()).words, "34 chunks with about 1.0GiB left, about 5 min");
        let no_place = DrainHindrance::NoPlace { chunk: ChunkId::new(255), goal: 2, connected: 2, full: 1 };
        let stuck = DrainRow::from(DrainView { hindrance: Some(no_place), ..view() });
        assert!(stuck.stuck);
        assert_eq!(
            stuck.words,
            "34 chunks with about 1.0GiB left; it cannot finish: chunk 00000000000000ff of goal 2 has no other place (2 \
             chunkservers connected, 1 volume without room); add chunkservers or space, lower the goal, or cancel the drain"
        );
        let waits = DrainRow::from(DrainView { hindrance: Some(DrainHindrance::NotHere), ..view() });
        assert!(!waits.stuck && waits.words.contains("cannot be read now"), "{}", waits.words);
        let done = DrainView { drained: true, chunks_left: 0, bytes_left: 0, kept: 2, ..view() };
        assert!(DrainRow::from(done).words.contains("2 copies that no record knows"));
    }
}
