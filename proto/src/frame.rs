//! The frame: the unit of the metadata session and of the data connection (docs/formats/frame.md).
//!
//! A fixed header of 24 bytes, then the prost-encoded message, then raw payload. All numbers are little-endian:
//!
//! | bytes | field |
//! |---|---|
//! | 0..2 | magic 0x5246 ("FR") |
//! | 2..4 | frame type |
//! | 4..6 | flags: 1 reply, 2 error (the message is `session::Failure`) |
//! | 6..8 | zero |
//! | 8..12 | length of the message in bytes |
//! | 12..16 | length of the payload in bytes |
//! | 16..24 | request id: a reply carries that of its request |
//!
//! The codec does no IO. A header is checked completely, against the limits of its own type and direction, before a byte is
//! allocated for what follows, so a peer that sends nonsense costs 24 bytes and its connection. The same limits hold for
//! what is sent ([`Header::check_lengths`]).

use thiserror::Error;

/// Length of the header, in bytes.
pub const HEADER_BYTES: usize = 24;

const MAGIC: u16 = 0x5246;

/// Largest payload of any frame: 4 MiB of chunk data.
pub const PAYLOAD_BYTES_MAX: u32 = 4 << 20;

/// What a frame is about. One table gives each type's number and its own limits, those of requests and those of replies.
macro_rules! frame_types {
    ($($(#[$doc:meta])* $name:ident = $number:literal, asks <= $asks:expr, answers <= $answers:expr;)*) => {
        /// Type of a frame. A reply has the type of its request.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum FrameType { $($(#[$doc])* $name = $number,)* }

        impl FrameType {
            /// Every type there is.
            pub const ALL: &'static [FrameType] = &[$(FrameType::$name,)*];

            /// The type with this number, if there is one.
            pub fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(FrameType::$name),)* _ => None }
            }

            /// Largest message and largest payload of a request of this type.
            pub fn request_limits(self) -> Limits {
                match self { $(FrameType::$name => $asks,)* }
            }

            /// The same of the reply to one.
            pub fn reply_limits(self) -> Limits {
                match self { $(FrameType::$name => $answers,)* }
            }
        }
    };
}

impl FrameType {
    /// Largest message and largest payload of a frame of this type with these flags.
    pub fn limits(self, flags: u16) -> Limits {
        match (flags & FLAG_ERROR != 0, flags & FLAG_REPLY != 0) {
            (true, _) => FAILURE,
            (false, true) => self.reply_limits(),
            (false, false) => self.request_limits(),
        }
    }
}

/// Largest sizes of one frame type, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of the prost-encoded message.
    pub message_bytes: u32,
    /// Of the raw payload.
    pub payload_bytes: u32,
}

const fn message(message_bytes: u32) -> Limits {
    Limits { message_bytes, payload_bytes: 0 }
}

const SMALL: Limits = message(4 << 10);
const NAMES: Limits = message(16 << 10);
const VALUE: Limits = message(80 << 10);
const LISTS: Limits = message(1 << 20);
const LARGE: Limits = message(8 << 20);
const WRITE: Limits = Limits { message_bytes: 80 << 10, payload_bytes: PAYLOAD_BYTES_MAX };
const LEAF_HASHES: Limits = Limits { message_bytes: 4 << 10, payload_bytes: 128 << 10 };
const READ: Limits = Limits { message_bytes: 16 << 10, payload_bytes: PAYLOAD_BYTES_MAX };

/// Of a failure, whichever type was asked.
const FAILURE: Limits = SMALL;

frame_types! {
    /// Begins every connection.
    Hello = 1, asks <= NAMES, answers <= SMALL;
    /// An entry of a directory.
    Lookup = 2, asks <= NAMES, answers <= NAMES;
    /// Entries of a directory.
    ReadDirectory = 3, asks <= NAMES, answers <= LARGE;
    /// Makes a node.
    Make = 4, asks <= NAMES, answers <= NAMES;
    /// Another name for a node.
    Link = 5, asks <= NAMES, answers <= SMALL;
    /// Removes a name.
    Unlink = 6, asks <= NAMES, answers <= SMALL;
    /// Moves a name.
    Rename = 7, asks <= NAMES, answers <= SMALL;
    /// Attributes of a node.
    GetAttributes = 8, asks <= SMALL, answers <= SMALL;
    /// Changes attributes of a node.
    SetAttributes = 9, asks <= NAMES, answers <= SMALL;
    /// Target of a symbolic link.
    ReadSymlink = 10, asks <= SMALL, answers <= NAMES;
    /// Permission check.
    Access = 11, asks <= NAMES, answers <= SMALL;
    /// Value of an extended attribute.
    GetXattr = 12, asks <= NAMES, answers <= VALUE;
    /// Names of extended attributes.
    ListXattr = 13, asks <= NAMES, answers <= VALUE;
    /// Sets or removes an extended attribute.
    SetXattr = 14, asks <= VALUE, answers <= SMALL;
    /// Space of the filesystem.
    StatFilesystem = 15, asks <= SMALL, answers <= SMALL;
    /// Chunks of a file and where their copies are.
    Locate = 16, asks <= SMALL, answers <= LISTS;
    /// The right to write a chunk.
    GrantWrite = 17, asks <= SMALL, answers <= NAMES;
    /// A lease.
    AcquireLease = 18, asks <= SMALL, answers <= SMALL;
    /// What was written becomes the file's state.
    Commit = 19, asks <= LISTS, answers <= SMALL;
    /// Drops chunks of a file.
    PunchHole = 20, asks <= NAMES, answers <= SMALL;
    /// A copy did not take a write.
    CopyFailed = 21, asks <= NAMES, answers <= NAMES;
    /// A copy did not give right bytes.
    ReportBadCopy = 22, asks <= NAMES, answers <= SMALL;
    /// Waits for the master's disk.
    Sync = 23, asks <= SMALL, answers <= SMALL;
    /// Orphans and nodes no longer needed.
    Release = 24, asks <= LISTS, answers <= SMALL;
    /// Takes or drops a lock.
    SetLock = 25, asks <= SMALL, answers <= SMALL;
    /// Asks for a conflicting lock.
    GetLock = 26, asks <= SMALL, answers <= SMALL;
    /// Ends the wait for a lock.
    CancelLock = 27, asks <= SMALL, answers <= SMALL;
    /// The client is alive.
    Heartbeat = 28, asks <= VALUE, answers <= SMALL;
    /// What a client held before the master restarted.
    Reclaim = 29, asks <= LISTS, answers <= LISTS;
    /// Master to client: give up leases, forget names.
    Recall = 30, asks <= LISTS, answers <= SMALL;
    /// Client to master: a recall has been carried out.
    RecallDone = 31, asks <= SMALL, answers <= SMALL;
    /// Master to client, without an answer.
    Notice = 32, asks <= LISTS, answers <= SMALL;
    /// Ends a session cleanly.
    Goodbye = 33, asks <= SMALL, answers <= SMALL;
    /// Times of access.
    Touch = 34, asks <= NAMES, answers <= NAMES;

    /// Begins a data connection.
    DataHello = 64, asks <= SMALL, answers <= SMALL;
    /// Bytes into a chunk.
    Write = 65, asks <= WRITE, answers <= NAMES;
    /// Zeroes a range of a chunk.
    Zero = 66, asks <= NAMES, answers <= NAMES;
    /// Syncs a chunk's copies.
    SyncChunk = 67, asks <= NAMES, answers <= NAMES;
    /// Bytes out of a chunk.
    Read = 68, asks <= SMALL, answers <= READ;
    /// Digest of a copy.
    Digest = 69, asks <= SMALL, answers <= SMALL;
    /// The file of a copy.
    OpenCopy = 70, asks <= SMALL, answers <= LEAF_HASHES;
}

/// A reply.
pub const FLAG_REPLY: u16 = 1;
/// The message is a `session::Failure`.
pub const FLAG_ERROR: u16 = 2;

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it is about.
    pub frame_type: FrameType,
    /// [`FLAG_REPLY`], [`FLAG_ERROR`].
    pub flags: u16,
    /// Bytes of the message.
    pub message_bytes: u32,
    /// Bytes of the payload.
    pub payload_bytes: u32,
    /// Chosen by the asker; a reply carries it back.
    pub request_id: u64,
}

/// Why a header is not one. The connection it came on is closed.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FrameError {
    /// It does not begin as a frame.
    #[error("not a frame of this protocol (magic {0:#06x}): is this the right port?")]
    Magic(u16),
    /// No such type.
    #[error("unknown frame type {0}")]
    Type(u16),
    /// Unknown flags or bytes that must be zero.
    #[error("frame with unknown flags {flags:#06x} (reserved {reserved:#06x})")]
    Flags {
        /// As received.
        flags: u16,
        /// As received.
        reserved: u16,
    },
    /// Larger than its type may be.
    #[error("frame {frame_type:?} of {message_bytes} + {payload_bytes} bytes; at most {limits:?} are allowed")]
    Length {
        /// Its type.
        frame_type: FrameType,
        /// As received.
        message_bytes: u32,
        /// As received.
        payload_bytes: u32,
        /// What its type allows.
        limits: Limits,
    },
}

impl Header {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..2].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[2..4].copy_from_slice(&(self.frame_type as u16).to_le_bytes());
        bytes[4..6].copy_from_slice(&self.flags.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.message_bytes.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.request_id.to_le_bytes());
        bytes
    }

    /// Reads a header and checks all of it.
    ///
    /// # Errors
    /// [`FrameError`] says what is wrong; nothing that follows can be trusted then.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if u16_at(0) != MAGIC {
            return Err(FrameError::Magic(u16_at(0)));
        }
        let frame_type = FrameType::from_number(u16_at(2)).ok_or(FrameError::Type(u16_at(2)))?;
        let (flags, reserved) = (u16_at(4), u16_at(6));
        if flags & !(FLAG_REPLY | FLAG_ERROR) != 0 || reserved != 0 {
            return Err(FrameError::Flags { flags, reserved });
        }
        let (message_bytes, payload_bytes) = (u32_at(8), u32_at(12));
        let mut request_id = [0; 8];
        request_id.copy_from_slice(&bytes[16..24]);
        let request_id = u64::from_le_bytes(request_id);
        let header = Self { frame_type, flags, message_bytes, payload_bytes, request_id };
        header.check_lengths()?;
        Ok(header)
    }

    /// Whether both lengths are within the limits of the type and the direction.
    ///
    /// # Errors
    /// [`FrameError::Length`].
    pub fn check_lengths(&self) -> Result<(), FrameError> {
        let Self { frame_type, flags, message_bytes, payload_bytes, .. } = *self;
        let limits = frame_type.limits(flags);
        if message_bytes > limits.message_bytes || payload_bytes > limits.payload_bytes {
            return Err(FrameError::Length { frame_type, message_bytes, payload_bytes, limits });
        }
        Ok(())
    }

    /// Whether this is a reply.
    pub fn is_reply(&self) -> bool {
        self.flags & FLAG_REPLY != 0
    }

    /// Whether the message is a `session::Failure`.
    pub fn is_error(&self) -> bool {
        self.flags & FLAG_ERROR != 0
    }
}

/// A frame in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Header; its lengths are those of the two parts below.
    pub header: Header,
    /// prost-encoded.
    pub message: Vec<u8>,
    /// Raw bytes.
    pub payload: Vec<u8>,
}

/// Takes bytes as they come and gives whole frames: for peers that do not block. Keeps at most one frame.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
}

impl Decoder {
    /// An empty decoder.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, if it is there.
    ///
    /// # Errors
    /// [`FrameError`]: the connection is to be closed.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(header_bytes) = self.buffer.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let header = Header::decode(header_bytes)?;
        let message_end = HEADER_BYTES + header.message_bytes as usize;
        let frame_end = message_end + header.payload_bytes as usize;
        if self.buffer.len() < frame_end {
            return Ok(None);
        }
        let message = self.buffer[HEADER_BYTES..message_end].to_vec();
        let payload = self.buffer[message_end..frame_end].to_vec();
        self.buffer.drain(..frame_end);
        Ok(Some(Frame { header, message, payload }))
    }
}

#[cfg(test)]
#[path = "frame_test.rs"]
mod tests;
