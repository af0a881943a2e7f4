//! Looks over sled's files before sled does, and says what is not whole, and where.
//!
//! sled takes whatever does not fit for the end of its log, goes on with what is left, and overwrites the rest; where that
//! leaves a page without a beginning it panics, which ends the process. So its recovery is gone through here first, without
//! writing: the snapshot, the heads of all segments, and the log since the snapshot, which is what sled itself reads when it is
//! opened. What comes of it is either something that sled can open, or [`Survey::fatal`].
//!
//! A place that is not whole is not fatal by itself: a crash leaves such places too, and what stood there may have been
//! replaced since. It is a suspect, which is named when the store finds that something is missing (`sled_pages.rs` compares
//! what is there with what the last checkpoint stored).
//!
//! What always holds: nothing is written, and nothing is allocated by the size that a damaged byte says.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::Finding;
use super::sled_format::{
    LogNumber, Message, MessageKind, NoMessage, Piece, RED_ZONE_BYTES, SLED_BLOBS, SLED_HEAD_BYTES, SLED_SEGMENT_BYTES,
    SegmentHead, SledPage, Snapshot, check_blob, decode_message, decode_settings, places_after,
};

/// sled's log.
pub(crate) const SLED_LOG: &str = "db";
/// More suspects than this are not kept.
const SUSPECTS_MAX: usize = 16;
/// Pages that sled reads when it is opened: its list of trees, and its counter.
const PAGES_READ_AT_ONCE: u64 = 2;

/// How much is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// What sled reads when it is opened.
    Opening,
    /// Also every message and blob that a page of sled's is made of.
    Everything,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    /// Why sled cannot open its files, or would end the process.
    pub(crate) fatal: Option<Finding>,
    /// Other places that are not whole.
    pub(crate) suspects: Vec<Finding>,
    /// Messages and blobs that pages are made of and that are not whole.
    pub(crate) broken: Vec<Finding>,
}

impl Survey {
    /// The first place that explains that something is missing.
    pub(crate) fn first(&self) -> Option<&Finding> {
        self.fatal.as_ref().or(self.broken.first()).or(self.suspects.first())
    }
}

/// Looks over the files in sled's folder, which nobody may have open. `progress` is told how many bytes were read.
pub(crate) fn survey(folder: &Path, depth: Depth, progress: &mut dyn FnMut(u64)) -> io::Result<Survey> {
    let file = match File::open(folder.join(SLED_LOG)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Survey::default()),
        file => file?,
    };
    let settings = folder.join("conf");
    let segment_bytes = match fs::read(&settings) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        bytes => match decode_settings(&bytes?) {
            Ok(size) => size,
            Err(damage) => return Ok(Survey::refused(settings, 0, damage.to_string())),
        },
    };
    let snapshot = match newest_snapshot(folder)? {
        None => Snapshot::default(),
        Some(path) => match Snapshot::decode(&fs::read(&path)?) {
            Ok(snapshot) => snapshot,
            Err(damage) => return Ok(Survey::refused(path, 0, damage.to_string())),
        },
    };
    let mut surveyor = Surveyor {
        path: folder.join(SLED_LOG),
        blobs: folder.join(SLED_BLOBS),
        file_bytes: file.metadata()?.len(),
        file,
        segment_bytes: segment_bytes.unwrap_or(SLED_SEGMENT_BYTES),
        heads: Vec::new(),
        found: Survey::default(),
        progress,
    };
    surveyor.run(snapshot, depth)?;
    Ok(surveyor.found)
}

fn newest_snapshot(folder: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest = None;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with("snap.") && !name.ends_with(".generating") {
            newest = newest.max(Some(path));
        }
    }
    Ok(newest)
}

impl Survey {
    fn add_suspect(&mut self, found: Finding) {
        let is_known = self.suspects.iter().any(|known| (&known.file, known.offset) == (&found.file, found.offset));
        if self.suspects.len() < SUSPECTS_MAX && !is_known {
            self.suspects.push(found);
        }
    }

    fn refused(file: PathBuf, offset: u64, what: String) -> Survey {
        Survey { fatal: Some(Finding { file, offset, what }), ..Survey::default() }
    }
}

struct Surveyor<'a> {
    path: PathBuf,
    blobs: PathBuf,
    file: File,
    file_bytes: u64,
    segment_bytes: u64,
    heads: Vec<SegmentHead>,
    found: Survey,
    progress: &'a mut dyn FnMut(u64),
}

/// A segment that is being read.
struct Reading {
    offset: u64,
    first: LogNumber,
    bytes: Vec<u8>,
    /// The next message's place in it.
    at: usize,
}

/// Whether the log is only read to its end, or what it says counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    FindEnd,
    Apply,
}

impl Surveyor<'_> {
    fn run(&mut self, snapshot: Snapshot, depth: Depth) -> io::Result<()> {
        self.read_heads()?;
        let stable = snapshot.stable.unwrap_or(0);
        let Some(order) = self.order_from(stable / self.size() * self.size()) else { return Ok(()) };
        let end = self.find_end(&order, stable)?;
        let mut pages = snapshot.pages;
        self.apply_log(&order, end, snapshot.stable.unwrap_or(-1), &mut pages)?;
        self.check_pages(&pages);
        if self.found.fatal.is_none() {
            self.check_pieces(&pages, depth)?;
        }
        Ok(())
    }

    fn size(&self) -> LogNumber {
        self.segment_bytes.cast_signed()
    }

    fn suspect(&mut self, offset: u64, what: impl Into<String>) {
        let file = self.path.clone();
        self.found.add_suspect(Finding { file, offset, what: what.into() });
    }

    fn read_heads(&mut self) -> io::Result<()> {
        let segments = self.file_bytes.div_ceil(self.segment_bytes);
        for index in 0..segments {
            let offset = index * self.segment_bytes;
            let mut bytes = [0; SLED_HEAD_BYTES];
            if self.file_bytes - offset < SLED_HEAD_BYTES as u64 {
                self.heads.push(SegmentHead::Blank);
                continue;
            }
            self.file.read_exact_at(&mut bytes, offset)?;
            let head = SegmentHead::decode(&bytes);
            if head == SegmentHead::Broken {
                self.suspect(offset, "the checksum of a segment's head does not match");
            }
            self.heads.push(head);
        }
        Ok(())
    }

    /// Where the segments from this number on are. None if two say that they are the same.
    fn order_from(&mut self, from: LogNumber) -> Option<BTreeMap<LogNumber, u64>> {
        let mut order = BTreeMap::new();
        for (index, head) in self.heads.iter().enumerate() {
            let SegmentHead::Whole { first, .. } = *head else { continue };
            let offset = index as u64 * self.segment_bytes;
            if first >= from && order.insert(first, offset).is_some() {
                let what = "two segments have the same number".to_owned();
                self.found.fatal = Some(Finding { file: self.path.clone(), offset, what });
                return None;
            }
        }
        Some(order)
    }

    /// The last number that counts: behind what was certainly on disk, nothing does that follows a tear.
    fn find_end(&mut self, order: &BTreeMap<LogNumber, u64>, stable: LogNumber) -> io::Result<LogNumber> {
        let from = stable / self.size() * self.size();
        let known = order.values().filter_map(|offset| match self.heads[(offset / self.segment_bytes) as usize] {
            SegmentHead::Whole { stable, .. } => Some(stable),
            _ => None,
        });
        let lowest = known.fold(from, LogNumber::max).max(0) / self.size() * self.size();
        let mut expected = lowest;
        let mut missing = None;
        let mut tail = BTreeMap::new();
        for (first, offset) in order.range(lowest..) {
            if *first != expected {
                missing = Some(expected);
                break;
            }
            tail.insert(*first, *offset);
            expected += self.size();
        }
        let reached = self.walk(&tail, missing, Pass::FindEnd, &mut |_, _, _| true)?;
        Ok(reached.unwrap_or(0) - 1)
    }

    /// Does what sled does with the log beyond its snapshot.
    fn apply_log(
        &mut self,
        order: &BTreeMap<LogNumber, u64>,
        end: LogNumber,
        stable: LogNumber,
        pages: &mut Vec<SledPage>,
    ) -> io::Result<()> {
        self.walk(order, Some(end), Pass::Apply, &mut |number, offset, message| {
            number < stable || number >= end || apply(pages, number, offset, message)
        })?;
        Ok(())
    }

    /// Goes through the messages of these segments in order. Returns the number behind the last one.
    fn walk(
        &mut self,
        order: &BTreeMap<LogNumber, u64>,
        number_max: Option<LogNumber>,
        pass: Pass,
        visit: &mut dyn FnMut(LogNumber, u64, &Message) -> bool,
    ) -> io::Result<Option<LogNumber>> {
        let mut reached = None;
        let beyond = |number: LogNumber| number_max.is_some_and(|max| number > max);
        for (first, offset) in order {
            if beyond(*first) {
                break;
            }
            let mut segment = self.read_segment(*first, *offset)?;
            let is_last = order.keys().next_back() == Some(first);
            let tip = is_last || number_max.is_some_and(|max| first + self.size() > max);
            loop {
                let number = segment.first + segment.at as LogNumber;
                reached = Some(number);
                if segment.at as u64 + RED_ZONE_BYTES > self.segment_bytes {
                    break;
                }
                if beyond(number) {
                    return Ok(reached);
                }
                let message = match self.read_message(&segment) {
                    Ok(message) => message,
                    Err(reason) => {
                        self.note_break(&segment, reason, tip);
                        // sled goes on with the next segment where a checksum does not match, and ends where the file does.
                        if pass == Pass::FindEnd || reason == NoMessage::CutShort {
                            return Ok(reached);
                        }
                        break;
                    }
                };
                match (message.kind, self.blob_of(&message)?) {
                    (MessageKind::Cap, _) => break,
                    (MessageKind::Batch(last), _) if beyond(last) => return Ok(reached),
                    (_, Blob::Broken) => return Ok(reached),
                    (_, Blob::Gone) => {}
                    (_, Blob::Whole) if !visit(number, segment.offset + segment.at as u64, &message) => {
                        return Ok(reached);
                    }
                    _ => {}
                }
                segment.at += message.bytes as usize;
            }
        }
        Ok(reached)
    }

    fn read_segment(&mut self, first: LogNumber, offset: u64) -> io::Result<Reading> {
        let mut bytes = vec![0; self.segment_bytes.min(self.file_bytes - offset) as usize];
        self.file.read_exact_at(&mut bytes, offset)?;
        (self.progress)(bytes.len() as u64);
        Ok(Reading { offset, first, bytes, at: SLED_HEAD_BYTES })
    }

    fn read_message(&self, segment: &Reading) -> Result<Message, NoMessage> {
        let number = (segment.first / self.size()).cast_unsigned();
        decode_message(
            &segment.bytes[segment.at.min(segment.bytes.len())..],
            segment.at as u64,
            self.segment_bytes,
            number,
        )
    }

    /// A message is missing. At the log's end nothing else is to be expected, unless something whole follows.
    fn note_break(&mut self, segment: &Reading, reason: NoMessage, tip: bool) {
        let offset = segment.offset + segment.at as u64;
        let number = (segment.first / self.size()).cast_unsigned();
        let whole_at =
            |at: &usize| decode_message(&segment.bytes[*at..], *at as u64, self.segment_bytes, number).is_ok();
        let followed = places_after(segment.at, &segment.bytes).find(whole_at);
        match followed {
            Some(at) => {
                let next = segment.offset + at as u64;
                self.suspect(
                    offset,
                    format!("a message of sled's log is not whole; the next one that is stands at {next}"),
                );
            }
            // Just behind the last message: that is how sled lengthens its file.
            None if tip && segment.at == segment.bytes.len() => {}
            None if reason == NoMessage::CutShort => self.suspect(offset, "the file ends within sled's log"),
            None if !tip => self.suspect(offset, "the rest of a segment of sled's log is not whole"),
            None if reason == NoMessage::Broken => self.suspect(offset, "the end of sled's log is not whole"),
            None => {}
        }
    }

    fn blob_of(&mut self, message: &Message) -> io::Result<Blob> {
        let (MessageKind::Base(Some(blob)) | MessageKind::Change(Some(blob))) = message.kind else {
            return Ok(Blob::Whole);
        };
        self.read_blob(blob)
    }

    /// sled takes a blob that is gone for one that was replaced, and one that is not whole for the end of its log.
    fn read_blob(&mut self, blob: LogNumber) -> io::Result<Blob> {
        let path = self.blobs.join(blob.to_string());
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Blob::Gone),
            bytes => bytes?,
        };
        (self.progress)(bytes.len() as u64);
        let Err(damage) = check_blob(&bytes) else { return Ok(Blob::Whole) };
        self.found.add_suspect(Finding { file: path, offset: 0, what: damage.to_string() });
        Ok(Blob::Broken)
    }

    /// Whether sled could go on with these pages: each has a beginning, and stands in the segment that it says.
    fn check_pages(&mut self, pages: &[SledPage]) {
        for (page, state) in pages.iter().enumerate() {
            let pieces: &[Piece] = match state {
                SledPage::Unknown => {
                    return self.refuse(0, &format!("the beginning of sled's page {page} is nowhere"));
                }
                SledPage::Free(piece) => std::slice::from_ref(piece),
                SledPage::Present(pieces) => pieces,
            };
            if let Some(piece) = pieces.iter().find(|piece| !self.stands(piece)) {
                let offset = piece.offset / self.segment_bytes * self.segment_bytes;
                return self.refuse(offset, &format!("a part of sled's page {page} is not in its segment any more"));
            }
        }
    }

    fn stands(&self, piece: &Piece) -> bool {
        let head = self.heads.get((piece.offset / self.segment_bytes) as usize);
        let is_its = |first: LogNumber| first == piece.number / self.size() * self.size();
        piece.offset % self.segment_bytes + RED_ZONE_BYTES <= self.segment_bytes
            && matches!(head, Some(SegmentHead::Whole { first, .. }) if is_its(*first))
    }

    /// The first suspect is what it comes from, if there is one.
    fn refuse(&mut self, offset: u64, what: &str) {
        let own = Finding { file: self.path.clone(), offset, what: what.to_owned() };
        self.found.fatal = Some(match self.found.suspects.first() {
            None => own,
            Some(suspect) => Finding { what: format!("{}; without it, {what}", suspect.what), ..suspect.clone() },
        });
    }

    fn check_pieces(&mut self, pages: &[SledPage], depth: Depth) -> io::Result<()> {
        for (page, state) in pages.iter().enumerate() {
            let SledPage::Present(pieces) = state else { continue };
            let is_read = depth == Depth::Everything || (page as u64) < PAGES_READ_AT_ONCE;
            for piece in pieces {
                if is_read {
                    self.check_piece(page as u64, piece)?;
                }
                if let Some(blob) = piece.blob {
                    self.check_live_blob(blob, is_read)?;
                }
            }
        }
        // sled reads the first ones while it opens.
        if depth == Depth::Opening {
            self.found.fatal = self.found.broken.first().cloned();
        }
        Ok(())
    }

    fn check_live_blob(&mut self, blob: LogNumber, is_read: bool) -> io::Result<()> {
        let file = self.blobs.join(blob.to_string());
        let what = match is_read {
            true => match self.read_blob(blob)? {
                Blob::Whole => return Ok(()),
                Blob::Gone => "a blob of sled's is missing",
                Blob::Broken => "the checksum of sled's blob does not match",
            },
            false if file.exists() => return Ok(()),
            false => "a blob of sled's is missing",
        };
        self.found.broken.push(Finding { file, offset: 0, what: what.to_owned() });
        Ok(())
    }

    fn check_piece(&mut self, page: u64, piece: &Piece) -> io::Result<()> {
        let begin = piece.offset / self.segment_bytes * self.segment_bytes;
        let at = piece.offset - begin;
        let mut bytes = vec![0; self.segment_bytes.min(self.file_bytes - begin).saturating_sub(at) as usize];
        // Most messages are short.
        let mut known = bytes.len().min(32 * 1024);
        loop {
            self.file.read_exact_at(&mut bytes[..known], piece.offset)?;
            let number = (piece.number / self.size()).cast_unsigned();
            match decode_message(&bytes[..known], at, self.segment_bytes, number) {
                Ok(message) if message.page == page => {
                    (self.progress)(message.bytes);
                    return Ok(());
                }
                Err(NoMessage::CutShort) if known < bytes.len() => known = bytes.len(),
                Ok(_) | Err(_) => break,
            }
        }
        let what = format!("a message of sled's page {page} is not whole");
        self.found.broken.push(Finding { file: self.path.clone(), offset: piece.offset, what });
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blob {
    Whole,
    Gone,
    Broken,
}

/// What a message does to what sled knows of its pages. False where sled stops.
fn apply(pages: &mut Vec<SledPage>, number: LogNumber, offset: u64, message: &Message) -> bool {
    let page = message.page as usize;
    let (blob, is_base) = match message.kind {
        MessageKind::Base(blob) => (blob, true),
        MessageKind::Change(blob) => (blob, false),
        MessageKind::Free => (None, true),
        MessageKind::Canceled | MessageKind::Cap | MessageKind::Batch(_) => return true,
    };
    let piece = Piece { number, offset, blob };
    let is_new = pages.len() <= page;
    if is_new {
        pages.resize(page + 1, SledPage::Unknown);
    }
    match &mut pages[page] {
        _ if message.kind == MessageKind::Free => pages[page] = SledPage::Free(piece),
        _ if is_base => pages[page] = SledPage::Present(vec![piece]),
        SledPage::Present(pieces) if pieces.last().is_none_or(|last| last.number < number) => pieces.push(piece),
        SledPage::Present(_) => {}
        // A change of a page that was moved to a later segment.
        _ if is_new => drop(pages.pop()),
        _ => {}
    }
    true
}
