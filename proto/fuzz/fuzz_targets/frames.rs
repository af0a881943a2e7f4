//! Feeds bytes to the frame decoder as a peer could send them, cut anywhere, and each whole frame's message to the decoders of
//! its type. Nothing may panic, and no frame may pass the limits of its type.
//!
//! `cargo +nightly fuzz run frames` in `proto/`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message;
use rfs_proto::frame::Decoder;
use rfs_proto::{data, session};

fuzz_target!(|bytes: &[u8]| {
    let Some((step, bytes)) = bytes.split_first() else { return };
    let mut decoder = Decoder::new();
    for part in bytes.chunks(usize::from(*step).max(1)) {
        decoder.push(part);
        loop {
            let frame = match decoder.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(_) => return,
            };
            let limits = frame.header.frame_type.limits(frame.header.flags);
            assert!(frame.message.len() <= limits.message_bytes as usize);
            assert!(frame.payload.len() <= limits.payload_bytes as usize);
            let _ = session::Make::decode(frame.message.as_slice());
            let _ = session::Commit::decode(frame.message.as_slice());
            let _ = session::Recall::decode(frame.message.as_slice());
            let _ = data::Write::decode(frame.message.as_slice());
            let _ = data::ReadReply::decode(frame.message.as_slice());
        }
    }
});
