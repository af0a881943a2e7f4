//! Tests of the frame codec: round trips, every kind of bad header, and bytes at random.

use super::*;
use proptest::prelude::*;

fn header() -> impl Strategy<Value = Header> {
    (0..FrameType::ALL.len(), 0u16..4, any::<u64>()).prop_flat_map(|(index, flags, request_id)| {
        let frame_type = FrameType::ALL[index];
        let limits = frame_type.limits(flags);
        (0..=limits.message_bytes, 0..=limits.payload_bytes).prop_map(move |(message_bytes, payload_bytes)| Header {
            frame_type,
            flags,
            message_bytes,
            payload_bytes,
            request_id,
        })
    })
}

proptest! {
    #[test]
    fn a_header_survives_the_wire(header in header()) {
        prop_assert_eq!(Header::decode(&header.encode()), Ok(header));
    }

    #[test]
    fn random_bytes_never_panic_and_never_pass_the_limits(bytes in any::<[u8; HEADER_BYTES]>()) {
        if let Ok(header) = Header::decode(&bytes) {
            prop_assert!(header.message_bytes <= header.frame_type.limits(header.flags).message_bytes);
            prop_assert!(header.payload_bytes <= header.frame_type.limits(header.flags).payload_bytes);
        }
    }

    #[test]
    fn frames_come_out_whole_however_the_bytes_arrive(
        sizes in proptest::collection::vec((0usize..300, 0usize..2000), 1..5),
        step in 1usize..700,
    ) {
        let frames: Vec<Frame> = sizes.iter().enumerate().map(|(at, (message, payload))| Frame {
            header: Header {
                frame_type: FrameType::Write,
                flags: 0,
                message_bytes: *message as u32,
                payload_bytes: *payload as u32,
                request_id: at as u64,
            },
            message: vec![at as u8; *message],
            payload: vec![!(at as u8); *payload],
        }).collect();
        let bytes: Vec<u8> = frames.iter().flat_map(|frame| {
            [&frame.header.encode()[..], &frame.message, &frame.payload].concat()
        }).collect();
        let mut decoder = Decoder::new();
        let mut out = Vec::new();
        for part in bytes.chunks(step) {
            decoder.push(part);
            while let Some(frame) = decoder.next_frame().expect("valid frames") {
                out.push(frame);
            }
        }
        prop_assert_eq!(out, frames);
    }
}

fn good() -> Header {
    Header { frame_type: FrameType::Lookup, flags: 0, message_bytes: 10, payload_bytes: 0, request_id: 7 }
}

#[test]
fn a_bad_header_is_refused_by_its_first_wrong_field() {
    let with = |at: usize, value: u8| {
        let mut bytes = good().encode();
        bytes[at] = value;
        Header::decode(&bytes)
    };
    assert!(matches!(with(0, 0), Err(FrameError::Magic(_))));
    assert_eq!(with(2, 200), Err(FrameError::Type(200)));
    assert!(matches!(with(4, 4), Err(FrameError::Flags { .. })));
    assert!(matches!(with(7, 1), Err(FrameError::Flags { .. })));
    assert!(matches!(with(11, 1), Err(FrameError::Length { message_bytes, .. }) if message_bytes > 1 << 20));
    assert!(matches!(with(12, 1), Err(FrameError::Length { payload_bytes: 1, .. })));
}

/// A request must not cost the memory that its reply may take, nor a reply what its request may.
#[test]
fn requests_and_replies_have_limits_of_their_own() {
    let frame = |frame_type, flags, message_bytes, payload_bytes| {
        Header::decode(&Header { frame_type, flags, message_bytes, payload_bytes, request_id: 0 }.encode())
    };
    frame(FrameType::ReadDirectory, FLAG_REPLY, 8 << 20, 0).unwrap();
    frame(FrameType::ReadDirectory, 0, 8 << 20, 0).unwrap_err();
    frame(FrameType::Hello, 0, 16 << 10, 0).unwrap();
    frame(FrameType::Hello, 0, (16 << 10) + 1, 0).unwrap_err();
    frame(FrameType::Read, FLAG_REPLY, 8 << 10, PAYLOAD_BYTES_MAX).unwrap();
    frame(FrameType::Read, 0, 100, 1).unwrap_err();
    frame(FrameType::Write, 0, 100, PAYLOAD_BYTES_MAX).unwrap();
    frame(FrameType::Write, FLAG_REPLY, 100, 1).unwrap_err();
    // A heartbeat that names 4,096 recalls, with numbers as long as they get.
    frame(FrameType::Heartbeat, 0, 4096 * 10 + 8, 0).unwrap();
    for frame_type in FrameType::ALL {
        frame(*frame_type, FLAG_REPLY | FLAG_ERROR, 4 << 10, 0).unwrap();
        frame(*frame_type, FLAG_REPLY | FLAG_ERROR, (4 << 10) + 1, 0).unwrap_err();
    }
}

/// The golden bytes of docs/formats/frame.md: they may change only with the protocol's version.
#[test]
fn the_format_is_the_documented_one() {
    let header = Header {
        frame_type: FrameType::Write,
        flags: FLAG_REPLY,
        message_bytes: 0x0102,
        payload_bytes: 0x0304,
        request_id: 0x0506_0708_090a_0b0c,
    };
    let golden =
        [0x46, 0x52, 65, 0, 1, 0, 0, 0, 2, 1, 0, 0, 4, 3, 0, 0, 0x0c, 0x0b, 0x0a, 0x09, 0x08, 0x07, 0x06, 0x05];
    assert_eq!(header.encode(), golden);
}
