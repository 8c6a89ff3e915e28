//! Generated wire types, and their conversions to and from the domain types.
//!
//! Owns: the shape of every message. Must not know: any server. Generated types stay at the edges
//! of the servers; inside, use `rangedb_types`.

#![allow(clippy::all, reason = "generated code")]

pub mod convert;
pub mod error;

/// The public interface.
pub mod v1 {
    tonic::include_proto!("rangedb.v1");

    /// Descriptors of the public services, for server reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/public.bin"));
}

/// Between the processes of one cluster.
pub mod internal {
    pub mod v1 {
        tonic::include_proto!("rangedb.internal.v1");
    }
}
