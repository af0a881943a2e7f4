//! Frames over a blocking stream: one `writev` to send, two `read`s (header, then the rest) to receive, buffers reused.
//!
//! A [`Connection`] belongs to one thread at a time. Nothing is allocated for a frame before its header has passed
//! [`Header::decode`], so never more than the limits of its type.

use std::io::{self, IoSlice, Read, Write};

use prost::Message;
use thiserror::Error;

use crate::frame::{FLAG_ERROR, FLAG_REPLY, FrameError, FrameType, HEADER_BYTES, Header};
use crate::session::Failure;

/// Why a frame could not be sent or received. Whatever it is, the connection is to be closed.
#[derive(Debug, Error)]
pub enum WireError {
    /// The peer closed the connection between two frames.
    #[error("the peer closed the connection")]
    Closed,
    /// The stream failed, or ended within a frame.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// The peer sent something that is not a frame of this protocol.
    #[error("the peer sent a bad frame")]
    Frame(#[from] FrameError),
    /// The message does not decode as its type.
    #[error("the message of a {frame_type:?} frame does not decode")]
    Message {
        /// Type of the frame.
        frame_type: FrameType,
        /// What prost says.
        source: prost::DecodeError,
    },
    /// A frame that is out of place: another type or request id than the one awaited.
    #[error("expected {expected}, got a {got:?} frame")]
    OutOfPlace {
        /// What was awaited, in words.
        expected: &'static str,
        /// What came.
        got: FrameType,
    },
}

impl WireError {
    /// Whether this is a read that reached its time limit before the first byte of a frame or within one.
    pub fn is_timeout(&self) -> bool {
        matches!(self, WireError::Io(error)
            if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut))
    }
}

/// What a frame is sent with beside its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Type of the frame.
    pub frame_type: FrameType,
    /// Flags of the frame.
    pub flags: u16,
    /// Request id.
    pub request_id: u64,
}

impl Envelope {
    /// Of a request.
    pub fn request(frame_type: FrameType, request_id: u64) -> Self {
        Self { frame_type, flags: 0, request_id }
    }

    /// Of the answer to a request.
    pub fn reply_to(header: &Header) -> Self {
        Self { frame_type: header.frame_type, flags: FLAG_REPLY, request_id: header.request_id }
    }

    /// Of a refusal of a request: the message is a [`Failure`].
    pub fn failure_of(header: &Header) -> Self {
        Self { flags: FLAG_REPLY | FLAG_ERROR, ..Self::reply_to(header) }
    }
}

/// Encodes header and message into `buffer` (cleared first), for a frame whose payload of `payload_bytes` follows.
///
/// # Panics
/// If message or payload exceed the limits of the type: the sender's own mistake.
pub fn encode_head(buffer: &mut Vec<u8>, envelope: Envelope, message: &impl Message, payload_bytes: usize) {
    let message_bytes = message.encoded_len();
    let limits = envelope.frame_type.limits();
    assert!(
        message_bytes <= limits.message_bytes as usize && payload_bytes <= limits.payload_bytes as usize,
        "a {:?} frame of {message_bytes} + {payload_bytes} bytes exceeds {limits:?}",
        envelope.frame_type
    );
    let header = Header {
        frame_type: envelope.frame_type,
        flags: envelope.flags,
        message_bytes: message_bytes as u32,
        payload_bytes: payload_bytes as u32,
        request_id: envelope.request_id,
    };
    buffer.clear();
    buffer.reserve(HEADER_BYTES + message_bytes);
    buffer.extend_from_slice(&header.encode());
    message.encode_raw(buffer);
}

/// Writes all of `parts` with as few calls as the stream allows.
///
/// # Errors
/// Those of the stream.
pub fn write_all_parts(stream: &mut impl Write, parts: &[&[u8]]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> =
        parts.iter().filter(|part| !part.is_empty()).map(|part| IoSlice::new(part)).collect();
    let mut rest = slices.as_mut_slice();
    while !rest.is_empty() {
        match stream.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A stream that carries frames, with its reused buffers.
#[derive(Debug)]
pub struct Connection<S> {
    stream: S,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
}

impl<S: Read + Write> Connection<S> {
    /// Wraps a connected stream (with TCP_NODELAY set, or answers wait for acknowledgements).
    pub fn new(stream: S) -> Self {
        Self { stream, outgoing: Vec::with_capacity(512), incoming: Vec::with_capacity(512) }
    }

    /// The stream, to set its time limits.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// Sends one frame with the payload in parts.
    ///
    /// # Errors
    /// [`WireError::Io`].
    pub fn send(&mut self, envelope: Envelope, message: &impl Message, payload: &[&[u8]]) -> Result<(), WireError> {
        let payload_bytes = payload.iter().map(|part| part.len()).sum();
        encode_head(&mut self.outgoing, envelope, message, payload_bytes);
        if payload_bytes == 0 {
            self.stream.write_all(&self.outgoing)?;
        } else {
            let mut parts = Vec::with_capacity(payload.len() + 1);
            parts.push(self.outgoing.as_slice());
            parts.extend_from_slice(payload);
            write_all_parts(&mut self.stream, &parts)?;
        }
        Ok(())
    }

    /// Receives a header and its message; [`Self::message`] decodes it. The payload, if there is one, must be taken
    /// next with [`Self::receive_payload`].
    ///
    /// # Errors
    /// [`WireError::Closed`] if the stream ended before the first byte.
    pub fn receive_head(&mut self) -> Result<Header, WireError> {
        let mut bytes = [0; HEADER_BYTES];
        read_header(&mut self.stream, &mut bytes)?;
        let header = Header::decode(&bytes)?;
        self.incoming.resize(header.message_bytes as usize, 0);
        self.stream.read_exact(&mut self.incoming)?;
        Ok(header)
    }

    /// Decodes the message received last.
    ///
    /// # Errors
    /// [`WireError::Message`].
    pub fn message<M: Message + Default>(&self, header: &Header) -> Result<M, WireError> {
        M::decode(self.incoming.as_slice())
            .map_err(|source| WireError::Message { frame_type: header.frame_type, source })
    }

    /// The bytes of the message received last.
    pub fn message_bytes(&self) -> &[u8] {
        &self.incoming
    }

    /// Reads exactly `into.len()` bytes of payload.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn receive_payload(&mut self, into: &mut [u8]) -> Result<(), WireError> {
        Ok(self.stream.read_exact(into)?)
    }

    /// Reads the whole payload of `header` into `into` (cleared first).
    ///
    /// # Errors
    /// Those of the stream.
    pub fn receive_payload_into(&mut self, header: &Header, into: &mut Vec<u8>) -> Result<(), WireError> {
        into.clear();
        let bytes = u64::from(header.payload_bytes);
        into.reserve(header.payload_bytes as usize);
        let got = (&mut self.stream).take(bytes).read_to_end(into)?;
        if got as u64 != bytes {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Ok(())
    }

    /// The reply to `request_id`, or the failure the peer answered with.
    ///
    /// # Errors
    /// [`WireError`]; a frame that is not that reply is [`WireError::OutOfPlace`].
    pub fn receive_reply<M: Message + Default>(
        &mut self,
        frame_type: FrameType,
        request_id: u64,
    ) -> Result<Result<M, Failure>, WireError> {
        let header = self.receive_head()?;
        if !header.is_reply() || header.frame_type != frame_type || header.request_id != request_id {
            return Err(WireError::OutOfPlace {
                expected: "the reply to the request just sent",
                got: header.frame_type,
            });
        }
        if header.is_error() { Ok(Err(self.message(&header)?)) } else { Ok(Ok(self.message(&header)?)) }
    }
}

/// Reads a header's bytes; an end before the first of them is [`WireError::Closed`].
fn read_header(stream: &mut impl Read, bytes: &mut [u8; HEADER_BYTES]) -> Result<(), WireError> {
    let mut filled = 0;
    while filled < HEADER_BYTES {
        match stream.read(&mut bytes[filled..]) {
            Ok(0) if filled == 0 => return Err(WireError::Closed),
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_frame_with_payload_in_parts_arrives_whole() {
        let (left, right) = UnixStream::pair().expect("socket pair");
        let (mut left, mut right) = (Connection::new(left), Connection::new(right));
        let message = data::Write { chunk: 9, length: 6, ..Default::default() };
        left.send(Envelope::request(FrameType::Write, 3), &message, &[b"abc", b"", b"def"]).expect("sent");
        let header = right.receive_head().expect("head");
        assert_eq!(right.message::<data::Write>(&header).expect("message"), message);
        let mut payload = Vec::new();
        right.receive_payload_into(&header, &mut payload).expect("payload");
        assert_eq!(payload, b"abcdef");
    }

    #[test]
    fn an_end_between_frames_is_told_from_an_end_within_one() {
        let (left, right) = UnixStream::pair().expect("socket pair");
        drop(left);
        assert!(matches!(Connection::new(right).receive_head(), Err(WireError::Closed)));
        let (mut left, right) = UnixStream::pair().expect("socket pair");
        left.write_all(&[0x46]).expect("sent");
        drop(left);
        assert!(matches!(Connection::new(right).receive_head(), Err(WireError::Io(_))));
    }

    #[test]
    fn a_refusal_comes_back_as_a_failure() {
        let (left, right) = UnixStream::pair().expect("socket pair");
        let (mut left, mut right) = (Connection::new(left), Connection::new(right));
        left.send(Envelope::request(FrameType::Sync, 5), &crate::session::Sync::default(), &[]).expect("sent");
        let header = right.receive_head().expect("head");
        let failure = Failure { errno: 28, message: "full".into() };
        right.send(Envelope::failure_of(&header), &failure, &[]).expect("sent");
        let reply = left.receive_reply::<crate::session::Empty>(FrameType::Sync, 5).expect("reply");
        assert_eq!(reply, Err(failure));
    }
}
