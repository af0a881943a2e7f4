//! Which message asks and which answers on a data connection.

use prost::Message;

use crate::data::{
    ChangeReply, Digest, DigestReply, Hello, HelloReply, OpenCopy, OpenCopyReply, Read, ReadReply, SyncChunk, Write,
    Zero,
};
use crate::frame::FrameType;

/// A request of a data connection. A request or its answer may have a payload.
pub trait DataCall: Message + Default {
    /// Its frame's type.
    const FRAME_TYPE: FrameType;
    /// What answers it.
    type Reply: Message + Default;
}

macro_rules! calls {
    ($($request:ty => $reply:ty, $frame_type:ident;)*) => {
        $(impl DataCall for $request {
            const FRAME_TYPE: FrameType = FrameType::$frame_type;
            type Reply = $reply;
        })*
    };
}

calls! {
    Hello => HelloReply, DataHello;
    Write => ChangeReply, Write;
    Zero => ChangeReply, Zero;
    SyncChunk => ChangeReply, SyncChunk;
    Read => ReadReply, Read;
    Digest => DigestReply, Digest;
    OpenCopy => OpenCopyReply, OpenCopy;
}
