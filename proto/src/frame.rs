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
//! The codec does no IO. A header is checked completely, against the limits of its own type, before a byte is allocated for
//! what follows, so a peer that sends nonsense costs 24 bytes and its connection.

use thiserror::Error;

/// Length of the header, in bytes.
pub const HEADER_BYTES: usize = 24;

const MAGIC: u16 = 0x5246;

/// Largest payload of any frame: 4 MiB of chunk data.
pub const PAYLOAD_BYTES_MAX: u32 = 4 << 20;

/// What a frame is about. One table gives each type's number and its own limits.
macro_rules! frame_types {
    ($($(#[$doc:meta])* $name:ident = $number:literal, message <= $message:expr, payload <= $payload:expr;)*) => {
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

            /// Largest message and largest payload of a frame of this type, in bytes.
            pub fn limits(self) -> Limits {
                match self { $(FrameType::$name => Limits { message_bytes: $message, payload_bytes: $payload },)* }
            }
        }
    };
}

/// Largest sizes of one frame type, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of the prost-encoded message.
    pub message_bytes: u32,
    /// Of the raw payload.
    pub payload_bytes: u32,
}

const SMALL: u32 = 4 << 10;
const NAMES: u32 = 16 << 10;
const VALUE: u32 = 80 << 10;
const LISTS: u32 = 1 << 20;
const LARGE: u32 = 8 << 20;

frame_types! {
    /// Begins every connection.
    Hello = 1, message <= NAMES, payload <= 0;
    /// An entry of a directory.
    Lookup = 2, message <= NAMES, payload <= 0;
    /// Entries of a directory.
    ReadDirectory = 3, message <= LARGE, payload <= 0;
    /// Makes a node.
    Make = 4, message <= NAMES, payload <= 0;
    /// Another name for a node.
    Link = 5, message <= NAMES, payload <= 0;
    /// Removes a name.
    Unlink = 6, message <= NAMES, payload <= 0;
    /// Moves a name.
    Rename = 7, message <= NAMES, payload <= 0;
    /// Attributes of a node.
    GetAttributes = 8, message <= SMALL, payload <= 0;
    /// Changes attributes of a node.
    SetAttributes = 9, message <= NAMES, payload <= 0;
    /// Target of a symbolic link.
    ReadSymlink = 10, message <= NAMES, payload <= 0;
    /// Permission check.
    Access = 11, message <= NAMES, payload <= 0;
    /// Value of an extended attribute.
    GetXattr = 12, message <= VALUE, payload <= 0;
    /// Names of extended attributes.
    ListXattr = 13, message <= VALUE, payload <= 0;
    /// Sets or removes an extended attribute.
    SetXattr = 14, message <= VALUE, payload <= 0;
    /// Space of the filesystem.
    StatFilesystem = 15, message <= SMALL, payload <= 0;
    /// Chunks of a file and where their copies are.
    Locate = 16, message <= LISTS, payload <= 0;
    /// The right to write a chunk.
    GrantWrite = 17, message <= NAMES, payload <= 0;
    /// A lease.
    AcquireLease = 18, message <= SMALL, payload <= 0;
    /// What was written becomes the file's state.
    Commit = 19, message <= LISTS, payload <= 0;
    /// Drops chunks of a file.
    PunchHole = 20, message <= NAMES, payload <= 0;
    /// A copy did not take a write.
    CopyFailed = 21, message <= NAMES, payload <= 0;
    /// A copy did not give right bytes.
    ReportBadCopy = 22, message <= NAMES, payload <= 0;
    /// Waits for the master's disk.
    Sync = 23, message <= SMALL, payload <= 0;
    /// Orphans and nodes no longer needed.
    Release = 24, message <= LISTS, payload <= 0;
    /// Takes or drops a lock.
    SetLock = 25, message <= SMALL, payload <= 0;
    /// Asks for a conflicting lock.
    GetLock = 26, message <= SMALL, payload <= 0;
    /// Ends the wait for a lock.
    CancelLock = 27, message <= SMALL, payload <= 0;
    /// The client is alive.
    Heartbeat = 28, message <= SMALL, payload <= 0;
    /// What a client held before the master restarted.
    Reclaim = 29, message <= LISTS, payload <= 0;
    /// Master to client: give up leases, forget names.
    Recall = 30, message <= LISTS, payload <= 0;
    /// Client to master: a recall has been carried out.
    RecallDone = 31, message <= SMALL, payload <= 0;
    /// Master to client, without an answer.
    Notice = 32, message <= LISTS, payload <= 0;
    /// Ends a session cleanly.
    Goodbye = 33, message <= SMALL, payload <= 0;

    /// Begins a data connection.
    DataHello = 64, message <= SMALL, payload <= 0;
    /// Bytes into a chunk.
    Write = 65, message <= VALUE, payload <= PAYLOAD_BYTES_MAX;
    /// Zeroes a range of a chunk.
    Zero = 66, message <= NAMES, payload <= 0;
    /// Syncs a chunk's copies.
    SyncChunk = 67, message <= NAMES, payload <= 0;
    /// Bytes out of a chunk.
    Read = 68, message <= NAMES, payload <= PAYLOAD_BYTES_MAX;
    /// Digest of a copy.
    Digest = 69, message <= NAMES, payload <= 0;
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
        let limits = frame_type.limits();
        if message_bytes > limits.message_bytes || payload_bytes > limits.payload_bytes {
            return Err(FrameError::Length { frame_type, message_bytes, payload_bytes, limits });
        }
        let mut request_id = [0; 8];
        request_id.copy_from_slice(&bytes[16..24]);
        Ok(Self { frame_type, flags, message_bytes, payload_bytes, request_id: u64::from_le_bytes(request_id) })
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
