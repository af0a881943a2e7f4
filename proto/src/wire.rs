//! Frames over a blocking stream: one `writev` to send, two `read`s (header, then the rest) to receive, buffers reused.
//!
//! A [`Connection`] belongs to one thread at a time. Nothing is allocated for a frame before its header has passed
//! [`Header::decode`] and is one of those awaited ([`Awaited`]), and memory for a large message comes as its bytes do: so a
//! peer never costs much more than what it sends. A frame over its limits is not sent either: what is sent may repeat what
//! a peer said, and must not bring this program down.

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
    /// A frame of this program's own that is larger than its type may be. Nothing of it was sent.
    #[error("the frame to be sent is too large")]
    TooLarge(#[source] FrameError),
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

/// Which frames may come next. Of others nothing but the header is read.
#[derive(Clone, Copy, Debug)]
pub struct Awaited {
    /// In words, for the error.
    pub what: &'static str,
    /// Whether it is one of them.
    pub admits: fn(&Header) -> bool,
}

impl Awaited {
    /// The first frame of a client's connection to the master.
    pub const HELLO: Awaited =
        Awaited { what: "Hello", admits: |header| !header.is_reply() && header.frame_type == FrameType::Hello };

    /// The first frame of a data connection.
    pub const DATA_HELLO: Awaited = Awaited {
        what: "a hello first",
        admits: |header| !header.is_reply() && header.frame_type == FrameType::DataHello,
    };

    /// Any request.
    pub const REQUEST: Awaited = Awaited { what: "a request", admits: |header| !header.is_reply() };

    /// Any reply.
    pub const REPLY: Awaited = Awaited { what: "a reply", admits: Header::is_reply };

    /// Whatever comes: for peers that this program chose itself.
    pub const ANY: Awaited = Awaited { what: "a frame", admits: |_| true };
}

/// Encodes header and message into `buffer` (cleared first), for a frame whose payload of `payload_bytes` follows.
///
/// # Errors
/// [`WireError::TooLarge`] if message or payload exceed the limits of the type.
pub fn encode_head(
    buffer: &mut Vec<u8>,
    envelope: Envelope,
    message: &impl Message,
    payload_bytes: usize,
) -> Result<(), WireError> {
    let message_bytes = message.encoded_len();
    let header = Header {
        frame_type: envelope.frame_type,
        flags: envelope.flags,
        message_bytes: u32::try_from(message_bytes).unwrap_or(u32::MAX),
        payload_bytes: u32::try_from(payload_bytes).unwrap_or(u32::MAX),
        request_id: envelope.request_id,
    };
    header.check_lengths().map_err(WireError::TooLarge)?;
    buffer.clear();
    buffer.reserve(HEADER_BYTES + message_bytes);
    buffer.extend_from_slice(&header.encode());
    message.encode_raw(buffer);
    Ok(())
}

/// Longest text of another program that is repeated to a third, in bytes.
pub const FOREIGN_TEXT_BYTES_MAX: usize = 256;

/// Cuts a text that came from another program, or may contain one, to [`FOREIGN_TEXT_BYTES_MAX`].
pub fn cut_foreign_text(mut text: String) -> String {
    const MARK: &str = "...";
    if text.len() > FOREIGN_TEXT_BYTES_MAX {
        let end = (0..=FOREIGN_TEXT_BYTES_MAX - MARK.len()).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
        text.push_str(MARK);
    }
    text
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

/// Larger buffers are let go of when a connection is idle, and grow only as bytes come.
const BUFFER_BYTES_KEPT: usize = 64 << 10;

/// Gives the memory of a buffer back that is larger than a connection keeps while nothing happens.
pub fn shrink_buffer(buffer: &mut Vec<u8>) {
    if buffer.capacity() > BUFFER_BYTES_KEPT {
        *buffer = Vec::new();
    }
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
    /// [`WireError::Io`]; [`WireError::TooLarge`] for a frame that may not be.
    pub fn send(&mut self, envelope: Envelope, message: &impl Message, payload: &[&[u8]]) -> Result<(), WireError> {
        let payload_bytes = payload.iter().map(|part| part.len()).sum();
        encode_head(&mut self.outgoing, envelope, message, payload_bytes)?;
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

    /// The stream, to wait for bytes on it.
    pub fn stream_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Lets go of buffers that grew large. For a connection that is idle.
    pub fn shrink_buffers(&mut self) {
        shrink_buffer(&mut self.incoming);
        shrink_buffer(&mut self.outgoing);
    }

    /// Receives a header and its message; [`Self::message`] decodes it. The payload, if there is one, must be taken
    /// next with [`Self::receive_payload`].
    ///
    /// # Errors
    /// [`WireError::Closed`] if the stream ended before the first byte; [`WireError::OutOfPlace`] for a frame that is not
    /// awaited, of whose message nothing is read.
    pub fn receive_head(&mut self, awaited: &Awaited) -> Result<Header, WireError> {
        let mut bytes = [0; HEADER_BYTES];
        read_header(&mut self.stream, &mut bytes)?;
        let header = Header::decode(&bytes)?;
        if !(awaited.admits)(&header) {
            return Err(WireError::OutOfPlace { expected: awaited.what, got: header.frame_type });
        }
        self.incoming.clear();
        let message_bytes = header.message_bytes as usize;
        while self.incoming.len() < message_bytes {
            let filled = self.incoming.len();
            self.incoming.resize(message_bytes.min(filled + BUFFER_BYTES_KEPT), 0);
            self.stream.read_exact(&mut self.incoming[filled..])?;
        }
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
        let header = self.receive_head(&Awaited::REPLY)?;
        if header.frame_type != frame_type || header.request_id != request_id {
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
        let header = right.receive_head(&Awaited::ANY).expect("head");
        assert_eq!(right.message::<data::Write>(&header).expect("message"), message);
        let mut payload = Vec::new();
        right.receive_payload_into(&header, &mut payload).expect("payload");
        assert_eq!(payload, b"abcdef");
    }

    #[test]
    fn an_end_between_frames_is_told_from_an_end_within_one() {
        let (left, right) = UnixStream::pair().expect("socket pair");
        drop(left);
        assert!(matches!(Connection::new(right).receive_head(&Awaited::ANY), Err(WireError::Closed)));
        let (mut left, right) = UnixStream::pair().expect("socket pair");
        left.write_all(&[0x46]).expect("sent");
        drop(left);
        assert!(matches!(Connection::new(right).receive_head(&Awaited::ANY), Err(WireError::Io(_))));
    }

    #[test]
    fn a_refusal_comes_back_as_a_failure() {
        let (left, right) = UnixStream::pair().expect("socket pair");
        let (mut left, mut right) = (Connection::new(left), Connection::new(right));
        left.send(Envelope::request(FrameType::Sync, 5), &crate::session::Sync::default(), &[]).expect("sent");
        let header = right.receive_head(&Awaited::ANY).expect("head");
        let failure = Failure { errno: 28, message: "full".into() };
        right.send(Envelope::failure_of(&header), &failure, &[]).expect("sent");
        let reply = left.receive_reply::<crate::session::Empty>(FrameType::Sync, 5).expect("reply");
        assert_eq!(reply, Err(failure));
    }

    /// What is sent may repeat what a peer said: it must end the connection at worst.
    #[test]
    fn a_frame_over_its_limits_is_an_error_and_nothing_of_it_is_sent() {
        let (left, right) = UnixStream::pair().expect("socket pair");
        let (mut left, mut right) = (Connection::new(left), Connection::new(right));
        let hello = data::Hello { from: "x".repeat(5000), ..Default::default() };
        let sent = left.send(Envelope::request(FrameType::DataHello, 0), &hello, &[]);
        assert!(matches!(sent, Err(WireError::TooLarge(FrameError::Length { message_bytes: 5003, .. }))), "{sent:?}");
        let payload = vec![0; 5 << 20];
        let sent = left.send(Envelope::request(FrameType::Write, 0), &data::Write::default(), &[&payload]);
        assert!(matches!(sent, Err(WireError::TooLarge(_))), "{sent:?}");
        drop(left);
        assert!(matches!(right.receive_head(&Awaited::ANY), Err(WireError::Closed)));
    }

    /// 24 bytes of a stranger must not cost what a large reply of another type may take.
    #[test]
    fn nothing_is_allocated_for_a_frame_that_is_not_awaited() {
        let header = |frame_type, flags, message_bytes| Header {
            frame_type,
            flags,
            message_bytes,
            payload_bytes: 0,
            request_id: 0,
        };
        for sent in [
            header(FrameType::ReadDirectory, FLAG_REPLY, 8 << 20),
            header(FrameType::Commit, 0, 1 << 20),
            header(FrameType::Hello, FLAG_REPLY, 1000),
        ] {
            let (mut left, right) = UnixStream::pair().expect("socket pair");
            let mut right = Connection::new(right);
            left.write_all(&sent.encode()).expect("sent");
            let received = right.receive_head(&Awaited::HELLO);
            assert!(matches!(received, Err(WireError::OutOfPlace { expected: "Hello", .. })), "{received:?}");
            assert!(right.incoming.capacity() <= 512);
        }
        let (mut left, right) = UnixStream::pair().expect("socket pair");
        let mut right = Connection::new(right);
        left.write_all(&header(FrameType::Commit, 0, 1 << 20).encode()).expect("sent");
        drop(left);
        assert!(matches!(right.receive_head(&Awaited::REQUEST), Err(WireError::Io(_))));
        assert!(right.incoming.capacity() <= BUFFER_BYTES_KEPT, "memory comes with the bytes");
    }

    #[test]
    fn large_messages_arrive_whole_and_their_buffers_go_when_idle() {
        let (left, right) = UnixStream::pair().expect("socket pair");
        let (mut left, mut right) = (Connection::new(left), Connection::new(right));
        let release = crate::session::Release { orphans: (1..100_000).collect(), ..Default::default() };
        let sent = release.clone();
        let sender = std::thread::spawn(move || left.send(Envelope::request(FrameType::Release, 1), &sent, &[]));
        let header = right.receive_head(&Awaited::REQUEST).expect("head");
        assert_eq!(right.message::<crate::session::Release>(&header).expect("message"), release);
        sender.join().expect("thread").expect("sent");
        right.shrink_buffers();
        assert!(right.incoming.capacity() <= BUFFER_BYTES_KEPT);
    }

    #[test]
    fn foreign_text_is_cut_between_characters() {
        assert_eq!(cut_foreign_text("short".into()), "short");
        let cut = cut_foreign_text("\u{20ac}".repeat(200));
        assert!(cut.len() <= FOREIGN_TEXT_BYTES_MAX && cut.ends_with("\u{20ac}..."), "{cut}");
    }
}
