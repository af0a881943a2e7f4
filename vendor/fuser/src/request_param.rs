use crate::ll;
use crate::ll::fuse_abi::fuse_in_header;

/// FUSE request parameters.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    header: fuse_in_header,
    supplementary_group: Option<u32>,
}

impl Request {
    pub(crate) fn new(request: &ll::AnyRequest<'_>) -> Self {
        Self {
            header: *request.header(),
            supplementary_group: request.supplementary_group(),
        }
    }

    /// Returns the unique identifier of this request
    #[inline]
    pub fn unique(&self) -> ll::RequestId {
        ll::RequestId(self.header.unique)
    }

    /// Returns the uid of this request
    #[inline]
    pub fn uid(&self) -> u32 {
        self.header.uid
    }

    /// Returns the gid of this request
    #[inline]
    pub fn gid(&self) -> u32 {
        self.header.gid
    }

    /// Returns the pid of this request
    #[inline]
    pub fn pid(&self) -> u32 {
        self.header.pid
    }

    /// The group of the parent directory, if the caller is a member of it through a supplementary group.
    ///
    /// Sent with `create`, `tmpfile`, `mkdir`, `mknod` and `symlink` when
    /// [`InitFlags::FUSE_CREATE_SUPP_GROUP`](crate::InitFlags::FUSE_CREATE_SUPP_GROUP) was agreed on.
    #[inline]
    pub fn supplementary_group(&self) -> Option<u32> {
        self.supplementary_group
    }
}
