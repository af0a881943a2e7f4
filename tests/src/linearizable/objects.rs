//! What is checked: a file (bytes, length and mode), and the names of a directory.

use super::checker::Model;

/// Blocks of a file.
pub const BLOCKS: usize = 3;
/// Bytes of a block: a page, which is written and read at once.
pub const BLOCK_BYTES: usize = 4096;
/// Names in a directory.
pub const NAMES: usize = 3;

/// A file: each block is all of one number, 0 where nothing was written.
#[derive(Clone, Copy, Debug)]
pub struct FileModel;

/// What a file is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileState {
    blocks: [u64; BLOCKS],
    length_blocks: usize,
    mode: u32,
}

/// A call on a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileCall {
    /// pwrite of a whole block.
    Write(usize, u64),
    /// pread of a whole block.
    Read(usize),
    /// ftruncate to so many blocks.
    Truncate(usize),
    /// stat: length and mode.
    Stat,
    /// chmod.
    Chmod(u32),
}

/// What it answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileAnswer {
    /// It is done.
    Done,
    /// The number in the block; nothing beyond the end.
    Block(Option<u64>),
    /// Bytes that were never written together.
    Mixed,
    /// Bytes and mode.
    Stat(u64, u32),
}

/// Of a file just made.
pub const FIRST_MODE: u32 = 0o600;

impl Model for FileModel {
    type State = FileState;
    type Input = FileCall;
    type Output = FileAnswer;

    fn initial() -> FileState {
        FileState { blocks: [0; BLOCKS], length_blocks: 0, mode: FIRST_MODE }
    }

    fn step(state: &FileState, call: &FileCall, answer: Option<&FileAnswer>) -> Option<FileState> {
        let mut after = state.clone();
        let right = match call {
            FileCall::Write(block, number) => {
                after.blocks[*block] = *number;
                after.length_blocks = after.length_blocks.max(block + 1);
                FileAnswer::Done
            }
            FileCall::Truncate(blocks) => {
                after.length_blocks = *blocks;
                after.blocks[*blocks..].fill(0);
                FileAnswer::Done
            }
            FileCall::Chmod(mode) => {
                after.mode = *mode;
                FileAnswer::Done
            }
            FileCall::Read(block) => FileAnswer::Block((*block < state.length_blocks).then(|| state.blocks[*block])),
            FileCall::Stat => FileAnswer::Stat((state.length_blocks * BLOCK_BYTES) as u64, state.mode),
        };
        answer.is_none_or(|answer| *answer == right).then_some(after)
    }
}

/// The names of a directory, and which node each is.
#[derive(Clone, Copy, Debug)]
pub struct NamesModel;

/// What a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Name {
    /// Not there.
    Absent,
    /// This node.
    Node(u64),
    /// One that was made by a call whose answer is not known.
    Unknown,
}

/// A call on names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameCall {
    /// open with O_CREAT and O_EXCL.
    Create(usize),
    /// unlink.
    Unlink(usize),
    /// stat: which node it is.
    Look(usize),
    /// rename, over whatever is there.
    Rename(usize, usize),
}

/// What it answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameAnswer {
    /// It is done.
    Done,
    /// It is this node.
    Node(u64),
    /// ENOENT.
    Absent,
    /// EEXIST.
    Exists,
}

impl Model for NamesModel {
    type State = [Name; NAMES];
    type Input = NameCall;
    type Output = NameAnswer;

    fn initial() -> [Name; NAMES] {
        [Name::Absent; NAMES]
    }

    fn step(state: &[Name; NAMES], call: &NameCall, answer: Option<&NameAnswer>) -> Option<[Name; NAMES]> {
        let mut after = *state;
        match (call, answer) {
            (NameCall::Create(name), Some(NameAnswer::Node(node))) if state[*name] == Name::Absent => {
                after[*name] = Name::Node(*node);
            }
            (NameCall::Create(name), None) if state[*name] == Name::Absent => after[*name] = Name::Unknown,
            (NameCall::Create(name), None | Some(NameAnswer::Exists)) if state[*name] != Name::Absent => {}
            (NameCall::Unlink(name), None) => after[*name] = Name::Absent,
            (NameCall::Unlink(name), Some(NameAnswer::Done)) if state[*name] != Name::Absent => {
                after[*name] = Name::Absent;
            }
            (NameCall::Unlink(name) | NameCall::Look(name), Some(NameAnswer::Absent))
                if state[*name] == Name::Absent => {}
            (NameCall::Look(_), None) => {}
            (NameCall::Look(name), Some(NameAnswer::Node(node))) if state[*name] == Name::Node(*node) => {}
            (NameCall::Look(name), Some(NameAnswer::Node(node))) if state[*name] == Name::Unknown => {
                after[*name] = Name::Node(*node);
            }
            (NameCall::Rename(from, _), None | Some(NameAnswer::Absent)) if state[*from] == Name::Absent => {}
            (NameCall::Rename(from, to), None | Some(NameAnswer::Done)) if state[*from] != Name::Absent => {
                after[*to] = after[*from];
                after[*from] = Name::Absent;
            }
            _ => return None,
        }
        Some(after)
    }
}
