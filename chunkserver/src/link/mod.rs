//! The link to the master: learn where it listens (`ask`), then one stream for registration, heartbeats, inventories and
//! orders (`stream`), whose orders run on threads of the volumes (`orders`).

pub mod ask;

mod messages;

mod orders;

pub mod stream;
